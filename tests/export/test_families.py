"""Every family against transformers: our pixels and the ONNX graph, then the whole chain down to the logits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.profiling import run, workload
from score_edge.profiling.spans import Spans
from score_edge.runtime.language import llama_sequence
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.pipeline import Pipeline

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")

QUESTION = "What moved in the video?"
STEPS = 3


@pytest.fixture(scope="module")
def pipeline(bundled: Any) -> Any:
    model = LlamaCpp(bundled.bundle.gguf_path, context=2048, threads=1, cache="f32")
    with Pipeline(bundled.bundle, threads=1, model=model, threshold=-1.0) as opened:  # every cell of every step
        yield opened


def frames_of(images: np.ndarray, fps: float) -> list[Frame]:
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def synthetic(shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (4, *shape, 3), dtype=np.uint8)


def test_the_graph_agrees_with_torch(bundled: Any) -> None:
    plain, incremental = bundled.differences[:2], bundled.differences[2:]
    assert [row.data for row in plain] == ["random", "rendered"]
    assert [row.data for row in incremental] in ([], ["random", "one cell", "all cells"])
    assert bool(incremental) == (bundled.bundle.incremental_path is not None)
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
    logits: np.ndarray = pipeline.sequence.logits()
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
    with torch.no_grad(), case.arithmetic():
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
    deep |= case.decoder(ids, seen)
    hidden = case.model.get_decoder()(inputs_embeds=embeds, position_ids=positions, use_cache=False, **deep)[0]
    logits = case.model.get_output_embeddings()(hidden[0, -1])
    if cap := getattr(case.model.config.get_text_config(), "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    found: np.ndarray = logits.numpy()
    return found


def prefilled(monkeypatch: pytest.MonkeyPatch, run: Callable[[], None]) -> list[tuple[bytes, bytes]]:
    """What goes into llama.cpp meanwhile, call by call: ids or rows, and positions."""
    calls: list[tuple[bytes, bytes]] = []
    decode = llama_sequence.decode

    def noted(handle: Any, content: np.ndarray, positions: np.ndarray, *rest: Any) -> int:
        calls.append((content.tobytes(), positions.tobytes()))
        return decode(handle, content, positions, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(llama_sequence, "decode", noted)
        run()
    return calls


@pytest.mark.parametrize("retention", [1.0, 0.25])
def test_a_profile_prefills_what_ask_does(
    case: Any, pipeline: Any, clip: np.ndarray, retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = pipeline.bundle.manifest.vision
    frames = frames_of(clip[: STEPS * vision.frames_per_step], vision.fps)
    encoded = pipeline.encode(frames)
    selector = pipeline.selector("last-kept")
    keep = pipeline.select(encoded.tokens, selector, retention)

    def ask_it() -> None:
        pipeline.watch(encoded.tokens, keep, encoded.times)
        pipeline.prefill_question(workload.QUESTION)

    def profile_it() -> None:
        spans = Spans()
        measured = workload.BundleWorkload(pipeline, "synthetic", STEPS)
        measured._held = frames
        tokens, times = measured.tokens(spans)
        run._answer(measured, (tokens, times), run._select(tokens, selector, retention, spans), 1, spans)

    asked = prefilled(monkeypatch, ask_it)
    profiled = prefilled(monkeypatch, profile_it)
    if case.one_call:
        assert len(asked) == 2  # a clip is one call and its question another, however many texts are in it
    assert profiled[:-1] == asked  # the last call decodes


@pytest.mark.parametrize("retention", [1.0, 0.25])
def test_a_stream_is_what_ask_sees(
    pipeline: Any, clip: np.ndarray, retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of steps, questions in between or not; after old ones left, a fresh clip of what is held."""
    vision = pipeline.bundle.manifest.vision
    encoded = pipeline.encode(frames_of(clip[: 8 * vision.frames_per_step], vision.fps))
    steps = len(encoded.tokens)
    keep = np.random.default_rng(2).random(encoded.tokens.shape[:2]) < retention
    keep[0] = True
    scores = np.zeros(keep.shape, np.float32)
    whole = {
        count: ask(pipeline, encoded.tokens[:count], keep[:count], encoded.times[:count]) for count in (1, 3, steps)
    }

    def logits(memory: VideoMemory) -> np.ndarray:
        found: list[np.ndarray] = []
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.sequence, "generate", lambda *_: found.append(pipeline.sequence.logits()) or ())
            list(memory.answer(QUESTION, 1))
        return found[0]

    def watch(memory: VideoMemory, numbers: range) -> None:
        for t in numbers:
            memory.append(encoded.tokens[t], keep[t], scores[t], encoded.times[t])

    memory = VideoMemory(pipeline.model, pipeline.sequence, pipeline.layout, cells=1500)
    for begun, count in ((0, 1), (1, 3), (3, steps)):
        watch(memory, range(begun, count))
        assert np.abs(logits(memory) - whole[count]).max() <= 1e-3
    undisturbed = VideoMemory(pipeline.model, pipeline.sequence, pipeline.layout, cells=1500)
    watch(undisturbed, range(steps))
    assert np.abs(logits(undisturbed) - whole[steps]).max() <= 1e-3

    memory = VideoMemory(pipeline.model, pipeline.sequence, pipeline.layout, cells=1500, window=3)
    watch(memory, range(steps))
    memory._rebase()
    found = logits(memory)
    held = [entry.step for entry in memory._held]
    mask = np.zeros((held[-1].number + 1, keep.shape[1]), bool)
    tokens = np.zeros((*mask.shape, encoded.tokens.shape[2]), np.float32)
    times = [vision.frames_per_step / vision.fps * number for number in range(len(mask))]
    for step in held:
        mask[step.number, step.tokens] = True
        tokens[step.number, step.tokens] = step.embeddings
        times[step.number] = step.seconds
    assert len(held) == 3
    # What was cut off a longer stream may be called longer than it is.
    monkeypatch.setattr(pipeline.layout, "opening", lambda *_: memory._opening.text)
    assert np.abs(found - ask(pipeline, tokens, mask, times)).max() <= 1e-3
