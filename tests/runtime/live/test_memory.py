"""The memory of the video: what it holds is what `ask` would lay out, it never goes blind, and its work is bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.manifest import Prompt
from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language import llama_sequence
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory

pytest.importorskip("llama_cpp")

GRID = Grid(4, 5)
AFTER = "<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
QUESTION = "What moved?"
ONE_BLOCK = Prompt("<|im_start|>user\n<|vision_start|>", AFTER)
NUMBERED = Prompt(
    "<|im_start|>user\n",
    "{question}<|im_end|>\n",
    step="Frame{number}: <|vision_start|>{tokens}<|vision_end|>",
    between="\n",
)
COUNTED = Prompt(
    "<|im_start|>user\nSee {frames} frames of {duration}.\n",
    "{question}<|im_end|>\n",
    step="At {clock}: <|vision_start|>{tokens}<|vision_end|>\n",
)
NEWLINE = np.full((1, 128), 0.3, np.float32)
LAYOUTS = {
    "one block": Layout(ONE_BLOCK, GRID),
    "one block, seconds": Layout(ONE_BLOCK, GRID, time_scale=2.0),
    "one block, newline": Layout(ONE_BLOCK, GRID, newline=NEWLINE),
    "numbered steps": Layout(NUMBERED, GRID),
    "counted steps": Layout(COUNTED, GRID),
}
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((400, GRID.tokens, 128), dtype=np.float32)
SCORES = RNG.random((400, GRID.tokens), dtype=np.float32)
KEEP = SCORES > 0.85
KEEP[0] = True  # as a stream begins
KEEP[7:10] = False


@pytest.fixture(params=["f32", "plain"])
def model(request: pytest.FixtureRequest, gguf_files: dict[str, Path]) -> Iterator[LlamaCpp]:
    with LlamaCpp(gguf_files[request.param], context=1024, threads=1, cache="f32") as opened:
        yield opened


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of llama.cpp."""
    found, decode = list[int](), llama_sequence.decode
    monkeypatch.setattr(
        llama_sequence, "decode", lambda h, content, *rest: found.append(len(content)) or decode(h, content, *rest)
    )
    return found


@pytest.fixture(params=list(LAYOUTS))
def layout(request: pytest.FixtureRequest, model: LlamaCpp) -> Layout:
    if request.param == "one block, seconds" and not model.capabilities.keeps_positions:
        pytest.skip("only M-RoPE has positions in time")
    return LAYOUTS[request.param]


def answer_logits(memory: VideoMemory) -> np.ndarray:
    """Of the first token of an answer."""
    found: list[np.ndarray] = []
    generate = memory._sequence.generate

    def noted(max_tokens: int, *_: object) -> Iterator[str]:
        found.append(memory._sequence.logits())
        return generate(max_tokens)

    memory._sequence.generate = noted  # type: ignore[method-assign]
    list(memory.answer(QUESTION, 1))
    memory._sequence.generate = generate  # type: ignore[method-assign]
    return found[0]


def clip_logits(
    model: LlamaCpp, layout: Layout, kept: KeptTokens, times: list[float], opening: str | None = None
) -> np.ndarray:
    """The same for a clip, as `ask` lays it out, or with another text in front."""
    model._places.append(0)
    sequence = model.sequence()
    sequence.clear()
    with pytest.MonkeyPatch.context() as patch:
        if opening is not None:
            patch.setattr(layout, "opening", lambda *_: opening)
        prompt = layout.clip(kept, times)
    sequence.append(*prompt.segments, layout.question(prompt.tail, QUESTION))
    return sequence.logits()


def feed(memory: VideoMemory, steps: range) -> None:
    for t in steps:
        memory.append(TOKENS[t], KEEP[t], SCORES[t], float(t))


def held(memory: VideoMemory) -> tuple[KeptTokens, list[float]]:
    """What a memory holds, as a clip of its own."""
    last = memory._number
    mask = np.zeros((last, GRID.tokens), bool)
    tokens = np.zeros((last, GRID.tokens, 128), np.float32)
    times = [float(t) for t in range(last)]
    for entry in memory._held:
        step = entry.step
        mask[step.number, step.tokens] = True
        tokens[step.number, step.tokens] = step.embeddings
        times[step.number] = step.seconds
    return KeptTokens.gather(tokens, mask, GRID), times


def test_a_stream_that_fits_is_the_whole_clip(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=900)
    for steps in (1, 2, 20):
        feed(memory, range(memory._number, steps))
        found = answer_logits(memory)
    kept = KeptTokens.gather(TOKENS[:20], KEEP[:20], GRID)
    assert memory.tokens == KEEP[:20].sum()
    assert np.abs(found - clip_logits(model, layout, kept, [float(t) for t in range(20)])).max() <= 1e-2


def test_what_is_held_after_re_basing_is_a_fresh_clip(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=900, window=8)
    feed(memory, range(30))
    memory._rebase()
    found = answer_logits(memory)
    kept, times = held(memory)
    assert memory.steps == 8 and kept.kept == memory.tokens
    assert np.abs(found - clip_logits(model, layout, kept, times, memory._opening.text)).max() <= 1e-2


@pytest.mark.parametrize("pinned", [0.0, 0.2])
def test_cells_are_bounded_counted_and_every_place_is_shown(model: LlamaCpp, layout: Layout, pinned: float) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=220, pinned=pinned)
    for t in range(100):
        memory.append(TOKENS[t], KEEP[t], SCORES[t], float(t))
        assert memory.used <= 220
        assert {int(token) for entry in memory._held for token in entry.step.tokens} == set(range(GRID.tokens))
    assert np.isfinite(answer_logits(memory)).all()
    assert memory.used == memory._sequence.mark().cells - memory._front.cells
    # After re-basing the same tokens take the same cells: none was lost or counted twice on the way.
    used, tokens = memory.used, memory.tokens
    memory._rebase()
    assert memory.tokens == tokens and abs(memory.used - used) <= 40


def test_a_window_holds_the_newest_steps(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=900, window=8)
    feed(memory, range(60))
    assert memory.steps == 8
    shown = {t: set(np.flatnonzero(KEEP[t])) for t in range(52, 60)}
    for entry, t in zip(memory._held, range(52, 60), strict=True):
        assert set(entry.step.tokens) >= shown[t]


def test_a_still_scene_stays_in_view_however_long(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=600, window=8)
    nothing = np.zeros(GRID.tokens, bool)
    feed(memory, range(3))
    before = memory.tokens
    for second in range(3, 600):
        memory.append(TOKENS[2], nothing, SCORES[2], float(second))
    assert memory.tokens == before
    assert np.isfinite(answer_logits(memory)).all()
    # Something moves in one corner for longer than the window: the rest of the picture stays in view.
    corner = nothing.copy()
    corner[:2] = True
    for second in range(600, 640):
        memory.append(TOKENS[2], corner, SCORES[2], float(second))
    assert {int(token) for entry in memory._held for token in entry.step.tokens} == set(range(GRID.tokens))
    again = {
        int(t): row for entry in memory._held for t, row in zip(entry.step.tokens, entry.step.embeddings, strict=True)
    }
    assert all(np.array_equal(again[i], TOKENS[2][i]) for i in range(GRID.tokens))


@pytest.mark.parametrize(
    ("window", "trained", "pinned", "cells"),
    [(2, 40, 0.5, 800), (8, 96, 0.1, 150), (8, 4000, 0.5, 800), (64, 40, 0.0, 800), (64, 96, 0.1, 800)],
)
def test_work_per_step_is_bounded(
    gguf_files: dict[str, Path], calls: list[int], window: int, trained: int, pinned: float, cells: int
) -> None:
    """Whatever window, trained length, pins and cells: on average a few times the tokens that come in."""
    for name, file in (("one block", "f32"), ("numbered steps", "plain"), ("counted steps", "plain")):
        with LlamaCpp(gguf_files[file], context=1024, threads=1) as model:
            options: dict[str, Any] = {"cells": cells, "window": window, "pinned": pinned, "trained": trained}
            try:
                memory = VideoMemory(model, model.sequence(), LAYOUTS[name], **options)
            except ScoreEdgeError:
                continue
            feed(memory, range(80))
            calls.clear()
            feed(memory, range(80, 180))
            coming = int(KEEP[80:180].sum()) + 100 * memory._text_cells()
            assert sum(calls) <= 12 * coming + 4 * cells


def test_a_question_is_as_much_work_after_many_windows_as_after_the_first(
    model: LlamaCpp, layout: Layout, calls: list[int]
) -> None:
    """Each comes after one more step, and prefills its own text alone; what it attends to is no more either."""
    memory = VideoMemory(model, model.sequence(), layout, cells=900, window=16, trained=10_000)
    work, cells = dict[int, list[list[int]]](), dict[int, list[int]]()
    for t in range(220):
        feed(memory, range(t, t + 1))
        for first in (20, 200):
            if first <= t < first + 20:
                calls.clear()
                next(memory.answer(QUESTION, 1), None)
                work.setdefault(first, []).append(calls.copy())
                cells.setdefault(first, []).append(memory.used)
    assert work[20] == work[200] == [work[20][0]] * 20
    text = layout.question("", QUESTION)
    assert sum(work[20][0]) <= model.count(text.before + text.text + text.after) + 20  # the last step's own text
    assert np.mean(cells[200]) <= 1.1 * np.mean(cells[20])


@pytest.mark.parametrize(
    ("window", "cells", "asked_every"), [(8, 900, 1), (64, 300, 1), (8, 900, 1000), (None, 300, 7)]
)
def test_a_text_in_front_that_counts_is_true_and_its_writing_bounded(
    gguf_files: dict[str, Path], calls: list[int], window: int | None, cells: int, asked_every: int
) -> None:
    """Steps in time, late and after pauses; where the window binds and where the cells do; asked always and never."""
    seconds = np.cumsum(np.random.default_rng(3).choice([1.0, 1.0, 1.0, 2.0, 40.0], 400))
    layout = LAYOUTS["counted steps"]
    with LlamaCpp(gguf_files["plain"], context=1024, threads=1) as model:
        memory = VideoMemory(model, model.sequence(), layout, cells=cells, window=window)
        coming = asking = 0
        for t in range(400):
            coming += int(memory.append(TOKENS[t], KEEP[t], SCORES[t], seconds[t]).sum()) + memory._text_cells()
            if t % asked_every:
                continue
            before, said = len(calls), memory._opening
            next(memory.answer(QUESTION, 1), None)
            asking += sum(calls[before:])
            assert abs(said._steps - memory.steps) <= said._steps / 4
            assert memory._held[-1].step.seconds <= seconds[t] - memory._origin_s <= said._seconds
            if not memory._is_clip:
                assert len(calls) == before + 1 and calls[-1] < 40  # its own text and no more
        assert not memory._is_clip
        assert sum(calls) - asking <= 4 * coming


def test_the_highest_scores_of_all_that_left_are_pinned(gguf_files: dict[str, Path]) -> None:
    with LlamaCpp(gguf_files["f32"], context=512, threads=1) as model:
        memory = VideoMemory(model, model.sequence(), LAYOUTS["one block"], cells=100, pinned=0.1)
        feed(memory, range(200))
        pins = list(memory._held)[: memory._pins]
        scores = np.concatenate([entry.scores for entry in pins])
        assert len(scores) == 10 and scores.min() > 0.99
        numbers = [entry.step.number for entry in memory._held]
        assert numbers == sorted(numbers)


def test_questions_leave_no_trace_even_when_abandoned(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=700)
    feed(memory, range(15))
    before = answer_logits(memory)
    answer = "".join(memory.answer(QUESTION, 8))
    pieces = memory.answer(QUESTION, 8)
    next(pieces, None)
    pieces.close()
    assert np.array_equal(answer_logits(memory), before)
    assert "".join(memory.answer(QUESTION, 8)) == answer


def test_a_question_too_long_for_the_rest_of_the_context_leaves_no_trace(model: LlamaCpp) -> None:
    memory = VideoMemory(model, model.sequence(), LAYOUTS["one block"], cells=200)
    feed(memory, range(15))
    before = answer_logits(memory)
    with pytest.raises(ScoreEdgeError, match="context of 1024 tokens is full"):
        list(memory.answer("what moved? " * 800, 8))
    assert np.array_equal(answer_logits(memory), before)


def test_a_long_pause_does_not_use_up_positions(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=700, trained=300)
    nothing = np.zeros(GRID.tokens, bool)
    feed(memory, range(3))
    for t in range(3, 1000):
        memory.append(TOKENS[0], nothing, SCORES[0], float(t))
    for t in range(3, 6):
        memory.append(TOKENS[t], KEEP[t], SCORES[t], 1000.0 + t)
    assert memory.tokens == KEEP[:6].sum()
    assert memory._sequence.mark().position < 500
    assert memory.rebased < 100


def test_times_stay_true_at_every_rate_and_over_an_outage(model: LlamaCpp, layout: Layout) -> None:
    """A step in 20 s where the bundle's rate is one a second, and nothing at all for five minutes."""
    memory = VideoMemory(model, model.sequence(), layout, cells=900, window=4)
    seconds = [20.0 * t + (300.0 if t > 10 else 0.0) for t in range(12)]
    for t, second in enumerate(seconds):
        memory.append(TOKENS[t], KEEP[t], SCORES[t], second)
    memory._rebase()
    shown = [t for t in range(12) if KEEP[t].any()][-4:]
    for times in ([entry.step.seconds for entry in memory._held], [step.seconds for step in memory.clip()]):
        assert np.diff(times) == pytest.approx(np.diff([seconds[t] for t in shown]))


def test_an_outage_of_hours_does_not_use_up_positions(model: LlamaCpp, layout: Layout) -> None:
    """Not even before the step after next: what surprises is asked about at once."""
    memory = VideoMemory(model, model.sequence(), layout, cells=700, trained=300)
    feed(memory, range(3))
    memory.append(TOKENS[3], KEEP[3], SCORES[3], 20_000.0)
    assert memory.tokens == KEEP[:4].sum()
    assert memory._sequence.mark().position < 300
    assert np.isfinite(answer_logits(memory)).all()


def test_a_row_that_is_not_finite_is_refused_and_the_stream_goes_on(model: LlamaCpp, layout: Layout) -> None:
    memory = VideoMemory(model, model.sequence(), layout, cells=700, window=4)
    feed(memory, range(5))
    broken = TOKENS[5].copy()
    broken[np.flatnonzero(KEEP[5])[0]] = np.nan
    with pytest.raises(ScoreEdgeError, match="not finite"):
        memory.append(broken, KEEP[5], SCORES[5], 5.0)
    feed(memory, range(6, 12))
    assert np.isfinite(answer_logits(memory)).all()


def test_asking_a_blank_memory_and_impossible_sizes(model: LlamaCpp) -> None:
    sequence, layout = model.sequence(), LAYOUTS["one block"]
    with pytest.raises(ScoreEdgeError, match="nothing has been seen"):
        list(VideoMemory(model, sequence, layout, cells=200).answer(QUESTION, 8))
    with pytest.raises(ScoreEdgeError, match="do not hold one step"):
        VideoMemory(model, sequence, layout, cells=19)
    with pytest.raises(ScoreEdgeError, match="0 KV cells"):
        VideoMemory(model, sequence, layout, cells=-100)
    with pytest.raises(ScoreEdgeError, match="pinned share"):
        VideoMemory(model, sequence, layout, cells=200, pinned=1.0)


def test_what_is_held_as_a_clip_of_its_own(model: LlamaCpp, layout: Layout) -> None:
    sequence = model.sequence()
    memory = VideoMemory(model, sequence, layout, cells=900, window=5)
    for t in range(30):
        memory.append(TOKENS[t], KEEP[t], SCORES[t])
    clip = memory.clip()
    assert [step.number for step in clip] == list(range(memory.steps))
    assert sum(len(step.tokens) for step in clip) == memory.tokens
    assert [step.seconds for step in clip] == pytest.approx(list(range(memory.steps)))
    sequence.close()


@pytest.mark.parametrize("kind", ["f32", "plain"])
def test_memories_in_one_model_do_not_touch_each_other(gguf_files: dict[str, Path], kind: str) -> None:
    """Steps leave both in turn; on plain RoPE what stays moves up, in its own sequence only."""
    layout, found = LAYOUTS["one block"], dict[int, list[np.ndarray]]()
    for sequences in (1, 2):
        with LlamaCpp(gguf_files[kind], context=512, sequences=sequences, threads=1, cache="f32") as model:
            memories = [VideoMemory(model, model.sequence(), layout, cells=400, window=6) for _ in range(sequences)]
            for t in range(40):
                for n, memory in enumerate(memories):
                    memory.append(TOKENS[t + 40 * n], KEEP[t], SCORES[t])
                    if t % 13 == 0:
                        found.setdefault(sequences, []).append(answer_logits(memory))
    np.testing.assert_allclose(found[2][::2], found[1], atol=1e-3)


def test_no_hole_grows_behind_the_text_in_front(gguf_files: dict[str, Path]) -> None:
    """No model was trained with one: the reference model's right answers about the newest steps fell by ten points."""
    with LlamaCpp(gguf_files["f32"], context=1024, threads=1, cache="f32") as model:
        memory = VideoMemory(model, model.sequence(), LAYOUTS["one block"], cells=900, window=8, trained=64)
        holes = []
        for t in range(100):
            memory.append(TOKENS[t], KEEP[t], SCORES[t])
            holes.append(memory._held[0].position - memory._front.position)
    assert 8 < max(holes) <= 64 // 4 + 8  # measured before the next step, of which a few may keep nothing
    assert memory.rebased < 100 // 8


def test_a_step_that_the_model_refuses_leaves_no_text_behind(
    model: LlamaCpp, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout is LAYOUTS["counted steps"]:
        pytest.skip("its text in front names the time, which goes on")
    memory = VideoMemory(model, model.sequence(), layout, cells=900)
    feed(memory, range(4))
    before = answer_logits(memory)

    def refuse(*segments: Any) -> None:
        raise ScoreEdgeError("llama.cpp refused tokens")

    with monkeypatch.context() as patch:
        patch.setattr(memory._sequence, "append", refuse)
        with pytest.raises(ScoreEdgeError, match="refused"):
            memory.append(TOKENS[4], KEEP[4], SCORES[4], 4.0)
    assert np.array_equal(answer_logits(memory), before)


@pytest.mark.parametrize("window", [3, 900])
def test_a_step_that_the_model_refuses_is_made_good_by_the_next(
    model: LlamaCpp, layout: Layout, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Whether older ones had left for it, or all that is held was being prefilled again."""
    memory = VideoMemory(model, model.sequence(), layout, cells=900, window=window)
    feed(memory, range(3))

    def refuse(*segments: Any) -> None:
        raise ScoreEdgeError("llama.cpp refused tokens")

    with monkeypatch.context() as patch:
        patch.setattr(memory._sequence, "append", refuse)
        for t, far in ((3, False), (4, True)):
            patch.setattr(memory, "_is_far", lambda far=far: far)
            with pytest.raises(ScoreEdgeError, match="refused"):
                memory.append(TOKENS[t], KEEP[t], SCORES[t], float(t))
    feed(memory, range(5, 6))
    kept, times = held(memory)
    assert set(memory._held[-1].step.tokens) >= set(np.flatnonzero(KEEP[3] | KEEP[4] | KEEP[5]))
    assert {int(token) for entry in memory._held for token in entry.step.tokens} == set(range(GRID.tokens))
    found = answer_logits(memory)
    assert np.abs(found - clip_logits(model, layout, kept, times, memory._opening.text)).max() <= 1e-2


def test_cells_that_move_up_stay_as_exact_as_the_cache_is(gguf_files: dict[str, Path]) -> None:
    """Plain RoPE: what is held was shifted by every step that left. Against a cache of 32 bits, in logits up to 8."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for cache in ("f16", "f32"):
        for steps in (30, 300):  # 30 steps fit; of 300 the 32 that are held moved up at each of their 31 followers
            with LlamaCpp(gguf_files["plain"], context=1024, threads=1, cache=cache) as model:  # type: ignore[arg-type]
                memory = VideoMemory(model, model.sequence(), LAYOUTS["one block"], cells=900, window=32)
                feed(memory, range(steps))
                assert memory.rebased == 0
                found[cache, steps] = answer_logits(memory)
    still, moved = (float(np.abs(found["f16", steps] - found["f32", steps]).max()) for steps in (30, 300))
    print(f"a cache of 16 bits beside one of 32: {still:.1e} where nothing moved, {moved:.1e} where all moved 31 times")
    assert 0 < moved <= 10 * still
