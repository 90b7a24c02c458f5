"""The torch side of `train adapter` and `train query` for every family: logits and gradients are llama.cpp's."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.export.gguf_adapter import write_adapter  # noqa: E402
from score_edge.export.peft_adapter import write_peft  # noqa: E402
from score_edge.learning.adapter import Adapter  # noqa: E402
from score_edge.learning.adapter_run import learn_adapter  # noqa: E402
from score_edge.learning.data import Data  # noqa: E402
from score_edge.learning.decoder_weights import open_decoder  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.prepared_clip import PreparedClip, QuestionAnswer  # noqa: E402
from score_edge.learning.query_run import learn_query  # noqa: E402
from score_edge.learning.recipe import AdapterRecipe, QueryRecipe  # noqa: E402
from score_edge.learning.text_decoder import TextDecoder  # noqa: E402
from score_edge.runtime.language.llama_cpp import LlamaCpp  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402

STEPS = 3
ASKED = [QuestionAnswer("What moved in the video?", "The car moved."), QuestionAnswer("Is it red?", "no")]


def log_softmax(logits: Any) -> np.ndarray:
    found: np.ndarray = logits.log_softmax(-1).numpy()
    return found


def frozen(bundle: Any, adapter: Path | None = None) -> FrozenModel:
    """The bundle with a cache in float32, so that no rounding hides anything."""
    model = FrozenModel(bundle, steps=STEPS, threads=1)
    model.close()
    language = LlamaCpp(bundle.gguf_path, context=2048, threads=1, cache="f32", adapter=adapter)
    model._pipeline = Pipeline(bundle, threads=1, model=language)
    return model


@pytest.fixture(scope="module")
def learned(case: Any, bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    """The decoder, an adapter of random matrices beside it, the same as a file, a clip and a tenth of its tokens."""
    bundle = bundled.bundle
    decoder = TextDecoder(case.model, keeps_positions=bundle.manifest.language.positions == "mrope")
    adapter = Adapter(decoder.decoder, 4, seed=1)
    random = torch.Generator().manual_seed(2)
    for b in adapter.b:
        b.data.copy_(0.1 * torch.randn(b.shape, generator=random) / len(b[0]) ** 0.5)
    path = write_adapter(
        decoder.config, adapter.matrices(), tmp_path_factory.mktemp("adapter") / "adapter.gguf", alpha=adapter.alpha
    )
    grid = bundle.manifest.vision.token_grid
    tokens = 0.5 * torch.randn(STEPS, grid.tokens, bundle.manifest.vision.dim, generator=random)
    clip = PreparedClip(tokens.half(), [0.5 * step for step in range(STEPS)], ASKED, torch.zeros(2))
    keep = np.random.default_rng(3).random((STEPS, grid.tokens)) < 0.3
    keep[0, 0] = True
    yield bundle, decoder, adapter, path, clip, keep
    for module in decoder.decoder.modules():
        module._forward_hooks.clear()


@pytest.mark.parametrize("on", [False, True])
def test_every_token_of_every_answer_is_as_likely_as_in_llama_cpp(case: Any, learned: Any, on: bool) -> None:
    bundle, decoder, adapter, path, clip, keep = learned
    quiet = nullcontext() if on else adapter.off()
    with frozen(bundle, path if on else None) as model, torch.no_grad(), case.arithmetic(), quiet:
        prompt = model.prompt(clip, keep)
        logits = decoder.logits(prompt)
        tail = model._watch(clip.tokens, torch.from_numpy(keep), clip.times)
        sequence, layout = model._pipeline.sequence, model._pipeline.layout
        rows = iter(logits.split([len(answer) + 1 for answer in prompt.answers]))
        video = sequence.mark()
        for qa, ids in zip(ASKED, prompt.answers, strict=True):
            found = next(rows)
            expected = sequence.score(qa.answer, layout.question(tail, qa.question))
            chosen = log_softmax(found)[np.arange(len(ids)), ids]
            assert np.abs(chosen - expected).max() <= 1e-3
            sequence.append(layout.question(tail, qa.question))
            assert np.abs(found[0].numpy() - sequence.logits()).max() <= 1e-3
            sequence.rollback(video)


def test_the_adapter_matters_in_every_layer(learned: Any, case: Any) -> None:
    """Or a layer whose matrices llama.cpp passes over would not show above."""
    bundle, decoder, adapter, _, clip, keep = learned
    with frozen(bundle) as model, torch.no_grad():
        prompt = model.prompt(clip, keep)
        whole = decoder.logits(prompt)
        silent = []
        for name, b in zip(adapter.layers, adapter.b, strict=True):
            held = b.data.clone()
            b.data.zero_()
            if (decoder.logits(prompt) - whole).abs().max() < 1e-3:
                silent.append(name)
            b.data.copy_(held)
    assert silent == []


def test_gradients_are_the_same_where_memory_is_saved(learned: Any, case: Any) -> None:
    bundle, decoder, adapter, _, clip, keep = learned
    plain = copy.deepcopy(case.model)
    for module in plain.modules():
        module._forward_hooks.clear()
    sparing = TextDecoder(plain, keeps_positions=bundle.manifest.language.positions == "mrope", save_memory=True)
    beside = Adapter(sparing.decoder, 4)
    beside.load_state_dict(adapter.state_dict())
    with frozen(bundle) as model:
        prompt = model.prompt(clip, keep)
    found = []
    for each, layers in ((decoder, adapter), (sparing, beside)):
        each.logits(prompt).square().mean().backward()
        found.append([b.grad.clone() for b in layers.b])
        layers.zero_grad()
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(one.abs().max()))


def test_a_gradient_is_how_much_llama_cpp_s_answers_change(learned: Any, case: Any) -> None:
    """Every float of one token, a little more and a little less."""
    bundle, decoder, adapter, _, clip, _ = learned
    everything = np.ones(clip.tokens.shape[:2], np.bool_)
    chosen, little = (1, 2), 0.05  # less drowns in the table that ggml looks GELU up in
    with frozen(bundle) as model, case.arithmetic(), adapter.off():
        found = decoder.gradients(model.prompt(clip, everything))
        slopes = []
        for place in range(clip.tokens.shape[2]):
            losses = []
            for sign in (1, -1):
                tokens = clip.tokens.float()
                tokens[(*chosen, place)] += sign * little
                moved = dataclasses.replace(clip, tokens=tokens)
                losses.append(model.losses([moved], [torch.from_numpy(everything)])[0])
            slopes.append((losses[0] - losses[1]) / (2 * little))
    expected = torch.stack(slopes).norm(dim=0)
    token = chosen[0] * clip.tokens.shape[1] + chosen[1]
    assert torch.allclose(found[:, token], expected, rtol=0.05), (found[:, token], expected)


@pytest.fixture
def footage(bundled: Any, tmp_path: Path) -> Path:
    """Two videos."""
    import cv2

    vision, folder = bundled.bundle.manifest.vision, tmp_path / "footage"
    folder.mkdir()
    for seed in range(2):
        size = (vision.width, vision.height)
        writer = cv2.VideoWriter(str(folder / f"{seed}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), vision.fps, size)
        for image in np.random.default_rng(seed).integers(0, 256, (STEPS * vision.frames_per_step, *size[::-1], 3)):
            writer.write(image.astype(np.uint8))
        writer.release()
    return folder


RECIPE = AdapterRecipe(steps=3, clips=1, rank=2, learning_rate=1e-2, lowest=0.2, highest=0.4)


def test_from_a_checkpoint_and_footage_to_a_bundle(
    bundled: Any, case: Any, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("score_edge.learning.features.LONGEST_ANSWER", 3)
    data, old = Data(footage, clip_steps=STEPS), bundled.bundle
    learned = learn_adapter(old.folder, tmp_path / "run", RECIPE, data, checkpoint=str(case.folder), threads=1)
    clip = PreparedClip(
        torch.randn(STEPS, old.manifest.vision.token_grid.tokens, old.manifest.vision.dim).half(),
        [0.5 * step for step in range(STEPS)],
        ASKED,
        torch.zeros(2),
    )
    keep = np.ones(clip.tokens.shape[:2], bool)
    found = []
    for bundle in (old, learned):
        with FrozenModel(bundle, steps=STEPS, threads=1) as model:
            found.append(np.stack(model.first_logits(clip, keep)))
    assert np.abs(found[1] - found[0]).max() > 1e-3
    assert (tmp_path / "run/peft/adapter_config.json").is_file()


def test_a_policy_that_knows_the_question_from_a_checkpoint_and_footage(
    bundled: Any, case: Any, footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("score_edge.learning.features.LONGEST_ANSWER", 3)
    asked = tmp_path / "questions.jsonl"
    lines = [{"video": f"{i}.mp4", "question": qa.question} for i in range(2) for qa in ASKED]
    asked.write_text("\n".join(map(json.dumps, lines)))
    data, recipe = Data(footage, asked, clip_steps=STEPS), QueryRecipe(steps=3, clips=1, hidden=8)
    bundle = bundled.bundle
    with FrozenModel(bundle, steps=STEPS, threads=1) as model:
        table = model._pipeline.model.token_rows
    if table is None:
        with pytest.raises(ScoreEdgeError, match="token table"):
            learn_query(bundle.folder, tmp_path / "run", recipe, data, checkpoint=str(case.folder), threads=1)
        return
    learned, held = learn_query(bundle.folder, tmp_path / "run", recipe, data, checkpoint=str(case.folder), threads=1)
    assert [row.selector for row in held[:2]] == ["all", "score-query"] and all(0 < row.probability < 1 for row in held)
    tokens = np.random.default_rng(0).standard_normal((STEPS, bundle.manifest.vision.token_grid.tokens, 1), np.float32)
    tokens = np.repeat(tokens, bundle.manifest.vision.dim, axis=2)
    with Pipeline(learned, threads=1) as pipeline:
        one, other = (pipeline.selector("score-query", question=qa.question).score(tokens, 3) for qa in ASKED)
    assert one.shape == tokens.shape[:2] and not np.array_equal(one, other)


def test_peft_reads_the_same_adapter(learned: Any, case: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    bundle, decoder, adapter, _, clip, keep = learned
    folder = write_peft(adapter.matrices(), tmp_path / "peft", alpha=adapter.alpha, decoder=decoder.name, base="base")
    with frozen(bundle) as model, torch.no_grad():
        prompt = model.prompt(clip, keep)
        expected = decoder.logits(prompt)
        plain = copy.deepcopy(case.model)
        for module in plain.modules():
            module._forward_hooks.clear()
        merged = peft.PeftModel.from_pretrained(plain, folder).merge_and_unload()
        found = TextDecoder(merged, keeps_positions=bundle.manifest.language.positions == "mrope").logits(prompt)
    assert (found - expected).abs().max() <= 1e-3


def test_another_checkpoint_of_the_same_shape_is_refused(
    bundled: Any, case: Any, footage: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(case.folder, tmp_path / "other")
    path = tmp_path / "other/model.safetensors"
    random = torch.Generator().manual_seed(5)
    other = {
        name: torch.randn(each.shape, generator=random) * each.std() if "layers" in name and each.ndim == 2 else each
        for name, each in load_file(path).items()
    }
    save_file(other, path, {"format": "pt"})
    with pytest.raises(ScoreEdgeError, match="answer differently"):
        learn_adapter(
            bundled.bundle.folder,
            tmp_path / "run",
            RECIPE,
            Data(footage, clip_steps=STEPS),
            checkpoint=str(tmp_path / "other"),
            threads=1,
        )
    assert not (tmp_path / "run/checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_family_is_refused(qwen2_vl_case: Any, tmp_path: Path) -> None:
    manifest = Bundle.open("reference").manifest
    other = Bundle(tmp_path, dataclasses.replace(manifest, family="smolvlm"))
    with pytest.raises(ScoreEdgeError, match=r"is a qwen2_vl, and .* was exported from a smolvlm"):
        open_decoder(other, str(qwen2_vl_case.folder), "cpu")
    with pytest.raises(ScoreEdgeError, match="its hidden size is 192, not 64"):
        open_decoder(Bundle.open("reference"), str(qwen2_vl_case.folder), "cpu")
