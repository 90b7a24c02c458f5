"""Every family against transformers: our pixels and the ONNX graph, then the whole chain down to the logits."""

from typing import Any

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

QUESTION = "What moved in the video?"
STEPS = 3


@pytest.fixture(scope="module")
def pipeline(bundled: Any) -> Any:
    with Pipeline(bundled.bundle, threads=1) as opened:
        opened.model.close()
        opened.model = LlamaCpp(bundled.bundle.gguf_path, context=2048, threads=1, cache="f32")
        yield opened


def frames_of(images: np.ndarray, fps: float) -> list[Frame]:
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def synthetic(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (4, *shape, 3), dtype=np.uint8)


def test_the_graph_agrees_with_torch(bundled: Any) -> None:
    assert [row.data for row in bundled.differences] == ["random", "rendered"]
    assert max(row.relative for row in bundled.differences) <= 1e-4


@pytest.mark.parametrize("kind", ["real", "small"])
def test_tokens_are_those_of_transformers(case: Any, pipeline: Any, clip: np.ndarray, kind: str) -> None:
    images = clip[:4] if kind == "real" else synthetic((int(case.size[0] * 1.5), int(case.size[1] * 1.5)))
    tokens = pipeline.encode(frames_of(images, 2)).tokens
    expected = case.features(images.reshape(-1, case.per_step, *images.shape[1:]))
    assert tokens.shape == expected.shape
    assert np.abs(tokens - expected).max() <= 1e-4 * np.abs(expected).max()


def expand(case: Any, layout: list[Any], keep: np.ndarray, grid: Any, step_s: float) -> tuple[Any, Any, Any]:
    """Ids with placeholders, which visual token stands at each place (-1 for text), (3, L) positions.

    Positions are the published rule: a block starts behind the text, text goes on behind the unpruned block.
    """
    height, width = grid
    interval = (case.seconds or 1 / step_s) * step_s
    ids: list[int] = []
    index: list[int] = []
    places: list[tuple[int, int, int]] = []
    here = 0
    for part in layout:
        if isinstance(part, str):
            text = case.tokenizer(part, add_special_tokens=False).input_ids
            ids, index = ids + text, index + [-1] * len(text)
            places += [(here + i,) * 3 for i in range(len(text))]
            here += len(text)
            continue
        for step in part:
            for token in np.flatnonzero(keep[step]):
                ids.append(case.placeholder)
                index.append(step * keep.shape[1] + token)
                time = int((step - part[0]) * interval)
                places.append((here + time, here + token // width, here + token % width))
        here += max(int((part[-1] - part[0]) * interval) + 1, height, width)
        if case.newline:
            ids.append(case.placeholder)
            index.append(keep.size)
            places.append((0, 0, 0))
    positions = np.array(places).T if case.mrope else np.arange(len(ids))[None]
    return torch.tensor([ids]), np.array(index), torch.from_numpy(positions[:, None] if case.mrope else positions)


def ask(pipeline: Any, tokens: np.ndarray, keep: np.ndarray, times: list[float]) -> np.ndarray:
    pipeline.watch(tokens, keep, times)
    pipeline.prefill_question(QUESTION)
    logits: np.ndarray = pipeline.model.logits()
    return logits


@pytest.mark.parametrize("retention", [1.0, 0.25])
def test_logits_are_those_of_transformers(case: Any, pipeline: Any, clip: np.ndarray, retention: float) -> None:
    images = clip[: STEPS * case.per_step]
    steps = images.reshape(-1, case.per_step, *images.shape[1:])
    encoded = pipeline.encode(frames_of(images, 2))
    tokens = case.features(steps)
    keep = np.random.default_rng(1).random(tokens.shape[:2]) < retention
    shown = [step for step in range(STEPS) if keep[step].any()]
    layout = case.layout(shown, [encoded.times[step] for step in shown])
    # frames lie half a second apart, and Qwen merges two
    ids, index, positions = expand(case, layout, keep, pipeline.bundle.manifest.vision.grid, case.per_step / 2)
    with torch.no_grad():
        if retention == 1:
            # The whole model, from pixels: it puts its own tokens where the placeholders are.
            found = case.model(input_ids=ids, position_ids=positions, use_cache=False, **case.inputs(steps))
            expected = found.logits[0, -1].numpy()
        else:
            expected = pruned_logits(case, ids, torch.from_numpy(index), positions, tokens)
    logits = ask(pipeline, encoded.tokens, keep, encoded.times)
    assert np.abs(expected).max() > 1  # not a flat nothing
    assert np.abs(logits - expected).max() <= 1e-3


def pruned_logits(case: Any, ids: Any, index: Any, positions: Any, tokens: np.ndarray) -> np.ndarray:
    """transformers' decoder on the text and those rows of `tokens` that `index` names."""
    embeds = case.model.get_input_embeddings()(ids)
    width, seen = embeds.shape[-1], index >= 0
    rows = torch.from_numpy(tokens).flatten(0, 1)
    if case.newline:
        rows = torch.cat([rows, case.model.model.image_newline[None]])
    rows = rows[index[seen]]
    embeds[0, seen] = rows[:, :width]
    deep = {}
    if rows.shape[1] > width:
        deep = {
            "visual_pos_masks": seen[None],
            "deepstack_visual_embeds": list(rows[:, width:].split(width, dim=1)),
        }
    hidden = case.model.get_decoder()(inputs_embeds=embeds, position_ids=positions, use_cache=False, **deep)[0]
    logits: np.ndarray = case.model.get_output_embeddings()(hidden[0, -1]).numpy()
    return logits
