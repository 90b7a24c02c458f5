"""The oracle of policy learning against transformers' own forward, and what is kept of a clip on disk."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

from score_edge.bundle.external import sealed_language  # noqa: E402
from score_edge.bundle.folder import Bundle, write_bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.evaluation.comparison import clip_reader  # noqa: E402
from score_edge.learning.curriculum import Scene, footage_scenes, world_scenes, world_stills  # noqa: E402
from score_edge.learning.features import Features  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.prepared_clip import PreparedClip, QuestionAnswer  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402

BUNDLE = Bundle.open("reference")


@pytest.fixture(scope="module")
def model() -> Any:
    with FrozenModel(BUNDLE, steps=8, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(model: Any) -> PreparedClip:
    made = world.make_clip(world.VALIDATION_SEED, 4, 8)
    tokens, times = model.encode(made.frames())
    asked = [QuestionAnswer(q.text, q.answer) for q in made.questions[:3]]
    return PreparedClip(torch.from_numpy(tokens).half(), times, asked, torch.zeros(3))


def whole(clip: PreparedClip) -> torch.Tensor:
    return torch.ones(clip.tokens.shape[:2], dtype=torch.bool)


def test_a_loss_is_how_unlikely_the_runtime_finds_the_answer(model: Any, clip: PreparedClip) -> None:
    """By the runtime's own logits after the question; answers of the world are one token here."""
    keep = torch.from_numpy(np.random.default_rng(0).random(tuple(clip.tokens.shape[:2])) < 0.3)
    (losses,) = model.losses([clip], [keep])
    with Pipeline(BUNDLE, threads=1) as pipeline:
        pipeline.watch(clip.tokens.float().numpy(), keep.numpy(), clip.times)
        for pair, loss in zip(clip.asked, losses, strict=True):
            pipeline.prefill_question(pair.question)
            logits = pipeline.sequence.logits().astype(np.float64)
            (token,) = pipeline.model.plain_tokens(pair.answer)  # type: ignore[attr-defined]
            expected = math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token]
            assert float(loss) == pytest.approx(expected, abs=1e-3)


def test_the_order_of_rollouts_and_their_number_do_not_matter(model: Any, clip: PreparedClip) -> None:
    some = torch.from_numpy(np.random.default_rng(1).random(tuple(clip.tokens.shape[:2])) < 0.2)
    together = model.losses([clip, clip], [whole(clip), some])
    assert torch.allclose(model.losses([clip], [some])[0], together[1], atol=1e-4)


def test_the_models_own_answers_cost_least(model: Any, clip: PreparedClip) -> None:
    question = clip.asked[0].question
    (own,) = model.answer(clip.tokens, clip.times, [question], 4)
    asked = [QuestionAnswer(question, text) for text in (own, "green", "left", "three")]
    (losses,) = model.losses([PreparedClip(clip.tokens, clip.times, asked, torch.zeros(4))], [whole(clip)])
    assert own.strip() and float(losses[0]) == float(losses.min())


def test_a_backend_without_likelihoods_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScoreEdgeError, match="needs the folder"):
        FrozenModel(BUNDLE, backend="tensorrt-llm")


def outside(folder: Path, gguf: Path) -> Bundle:
    """The reference bundle with its language model outside of it."""
    language = sealed_language(dataclasses.replace(BUNDLE.manifest.language, gguf=None, path=str(gguf)))
    files = {name: path for name, path in BUNDLE.paths.items() if name != "llm.gguf"}
    return write_bundle(folder, dataclasses.replace(BUNDLE.manifest, language=language), files)


def fingerprint(bundle: Bundle) -> str:
    with FrozenModel(bundle, steps=1, threads=1) as opened:
        return opened.fingerprint


def test_the_fingerprint_is_that_of_the_language_model_and_not_of_its_place(tmp_path: Path) -> None:
    here, there = tmp_path / "llm.gguf", tmp_path / "elsewhere.gguf"
    shutil.copy(BUNDLE.gguf_path, here)
    shutil.copy(BUNDLE.gguf_path, there)
    first = fingerprint(outside(tmp_path / "first", here))
    assert fingerprint(outside(tmp_path / "second", there)) == first
    content = bytearray(here.read_bytes())
    content[-1] ^= 1  # another weight, the same length
    here.write_bytes(content)
    assert fingerprint(outside(tmp_path / "third", here)) != first


def test_a_bundle_that_does_not_know_its_language_model_goes_by_place_and_size(tmp_path: Path) -> None:
    gguf = tmp_path / "llm.gguf"
    shutil.copy(BUNDLE.gguf_path, gguf)
    known = outside(tmp_path / "bundle", gguf)
    language = dataclasses.replace(known.manifest.language, parts=())
    old = Bundle(known.folder, dataclasses.replace(known.manifest, language=language))
    first = fingerprint(old)
    with gguf.open("ab") as file:
        file.write(bytes(32))
    assert fingerprint(old) != first


def test_the_fingerprint_is_that_of_the_weights_beside_a_large_graph(tmp_path: Path) -> None:
    """Of an encoder of more than 1.8 GB, whose graph is the same whatever they are."""

    def beside(name: str, content: bytes) -> str:
        return fingerprint(write_bundle(tmp_path / str(len(content)), BUNDLE.manifest, {**BUNDLE.paths, name: content}))

    first = beside("encoder.onnx.data", b"weights")
    assert beside("encoder.onnx.data", b"other weights") != first
    assert beside("int8.json", b"{}") == fingerprint(BUNDLE)


def test_features_are_made_once_and_bounded(model: Any, tmp_path: Any) -> None:
    loaded = []
    (still,) = world_stills(1, 3)

    def load() -> Any:
        loaded.append(1)
        return still.load()

    scene = Scene(still.name, load)
    features = Features(tmp_path, model, 1 << 20)
    for _ in range(2):
        features.prepare([scene])
    clip = features.read(scene)
    assert len(loaded) == 1
    assert clip.tokens.dtype == torch.float16 and clip.tokens.shape == (3, 36, 192)
    assert clip.times == [0.125, 0.625, 1.125]
    assert len(clip.unpruned) == len(clip.asked) > 0 and (clip.unpruned > 0).all()
    assert len(features.fit([scene] * 100, 3)) == (1 << 20) // (3 * 36 * 192 * 2)
    with pytest.raises(ScoreEdgeError, match="one clip takes"):
        Features(tmp_path, model, 1000).fit([scene], 3)
    features.path(scene).write_bytes(b"cut")
    with pytest.raises(ScoreEdgeError, match="is damaged"):
        features.read(scene)


@pytest.mark.parametrize("count", [25, 300])  # within two steps, and ten times as long
def test_footage_has_the_times_that_ask_gives_it(model: Any, tmp_path: Any, count: int) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 29.97, (32, 32))
    for value in range(count):
        writer.write(np.full((32, 32, 3), value % 256, np.uint8))
    writer.release()
    vision = BUNDLE.manifest.vision
    (scene,) = footage_scenes(tmp_path, None, 2, vision.frames_per_step, vision.fps)
    frames, _ = scene.load()
    tokens, times = model.encode(frames)
    with Pipeline(BUNDLE, threads=1, full_encoder=True) as pipeline:
        asked = clip_reader(pipeline, tmp_path / "a.mp4", 2)()
    assert np.array_equal(tokens, asked.tokens)
    assert times == asked.times


def test_without_answers_the_models_own_are_the_targets(model: Any, tmp_path: Any) -> None:
    (moving,) = world_scenes(1, 4)
    frames, asked = moving.load()
    scene = Scene("own", lambda: (frames, [(text, None) for text, _ in asked[:3]]))
    features = Features(tmp_path, model, 1 << 20)
    features.prepare([scene])
    clip = features.read(scene)
    assert len(clip.asked) == 3
    assert (torch.exp(-clip.unpruned) > 0.2).all()  # likelier than any other first word
