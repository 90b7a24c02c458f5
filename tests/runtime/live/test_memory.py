"""The memory of the video: constant cells, the newest stay, questions leave no trace, renewal equals a fresh start."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory

pytest.importorskip("llama_cpp")

BEFORE = "<|im_start|>user\n<|vision_start|>"
QUESTION = "<|vision_end|>What moved?<|im_end|>\n<|im_start|>assistant\n"
GRID = Grid(4, 5)
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((400, GRID.tokens, 128), dtype=np.float32)
SCORES = RNG.random((400, GRID.tokens), dtype=np.float32)
KEEP = SCORES > 0.85
KEEP[7:10] = False


@pytest.fixture(params=["f32", "plain"])
def model(request: pytest.FixtureRequest, gguf_files: dict[str, Path]) -> Iterator[LlamaCpp]:
    with LlamaCpp(gguf_files[request.param], context=512, threads=1, cache="f32") as opened:
        yield opened


def logits(model: LlamaCpp) -> np.ndarray:
    video = model.mark()
    model.append_text(QUESTION)
    found = model.logits()
    model.rollback(video)
    return found


def feed(memory: VideoMemory, steps: range) -> None:
    for t in steps:
        memory.append(TOKENS[t], KEEP[t], SCORES[t])


def test_a_stream_that_fits_is_the_whole_clip(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=200)
    feed(memory, range(20))
    found = logits(model)
    model.reset()
    model.append_text(BEFORE)
    model.append_tokens(KeptTokens.gather(TOKENS[:20], KEEP[:20], GRID))
    assert np.abs(found - logits(model)).max() <= 1e-2
    assert memory.used == KEEP[:20].sum() and memory.renewals == 0


def test_a_step_of_which_nothing_is_kept_still_takes_time(gguf_files: dict[str, Path]) -> None:
    with LlamaCpp(gguf_files["f32"], context=512, threads=1, cache="f32") as model:
        memory = VideoMemory(model, BEFORE, GRID, cells=200)
        feed(memory, range(10))  # the last three steps are empty
        found, mark = logits(model), model.mark()
        model.reset()
        model.append_text(BEFORE)
        model.append_tokens(KeptTokens.gather(TOKENS[:10], KEEP[:10], GRID))
        assert model.mark() == mark
        assert np.abs(found - logits(model)).max() <= 1e-2


@pytest.mark.parametrize("memorable", [0.0, 0.2])
def test_cells_stay_constant_and_the_newest_steps_stay(model: LlamaCpp, memorable: float) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=100, memorable=memorable)
    sink = model.mark().cells
    for t in range(400):
        memory.append(TOKENS[t], KEEP[t], SCORES[t])
        assert memory.used <= 100
        assert model.mark().cells == sink + memory.used
        assert memory.steps >= min(t + 1, 12)
    assert np.isfinite(logits(model)).all()


def test_a_window_holds_exactly_its_steps(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=400, window=8)
    feed(memory, range(11, 60))
    assert memory.used == KEEP[52:60].sum()


def test_renewal_is_a_fresh_start_with_what_is_held(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=400, window=8, span=16)
    feed(memory, range(11, 11 + 16))
    assert memory.renewals == 0
    feed(memory, range(27, 28))
    assert memory.renewals == 1
    found = logits(model)
    model.reset()
    model.append_text(BEFORE)
    model.append_tokens(KeptTokens.gather(TOKENS[20:28], KEEP[20:28], GRID))
    assert np.abs(found - logits(model)).max() <= 1e-2


def test_the_highest_scores_of_all_that_left_are_memorable(gguf_files: dict[str, Path]) -> None:
    with LlamaCpp(gguf_files["f32"], context=512, threads=1) as model:
        memory = VideoMemory(model, BEFORE, GRID, cells=100, memorable=0.1)
        feed(memory, range(200))
        t = 200 - memory.steps
        left = np.sort(SCORES[:t][KEEP[:t]])[::-1][:10]
        assert np.array_equal(np.sort([token.scores[0] for token in memory._pool])[::-1], left)
        assert sorted(token.t for token in memory._pool) == [token.t for token in memory._pool]


def test_questions_leave_no_trace_even_when_abandoned(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=200)
    feed(memory, range(15))
    before = logits(model)
    answer = "".join(memory.answer(QUESTION, 8))
    pieces = memory.answer(QUESTION, 8)
    next(pieces, None)
    pieces.close()
    assert np.array_equal(logits(model), before)
    assert "".join(memory.answer(QUESTION, 8)) == answer


def test_a_question_too_long_for_the_rest_of_the_context_leaves_no_trace(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=200)
    feed(memory, range(15))
    before = logits(model)
    with pytest.raises(ScoreEdgeError, match="context of 512 tokens is full"):
        list(memory.answer("what moved? " * 400, 8))
    assert np.array_equal(logits(model), before)


def test_a_long_pause_does_not_use_up_positions(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=200, span=64)
    nothing = np.zeros(GRID.tokens, bool)
    feed(memory, range(3))
    for _ in range(1000):
        memory.append(TOKENS[0], nothing, SCORES[0])
    feed(memory, range(3, 6))
    assert memory.used == KEEP[:6].sum()
    assert model.mark().position < 200
    assert memory.renewals < 100


def test_a_row_that_is_not_finite_is_refused_and_the_stream_goes_on(model: LlamaCpp) -> None:
    memory = VideoMemory(model, BEFORE, GRID, cells=200)
    feed(memory, range(5))
    broken = TOKENS[5].copy()
    broken[np.flatnonzero(KEEP[5])[0]] = np.nan
    with pytest.raises(ScoreEdgeError, match="not finite"):
        memory.append(broken, KEEP[5], SCORES[5])
    feed(memory, range(6, 12))
    assert np.isfinite(logits(model)).all()


def test_asking_a_blank_memory_and_impossible_sizes(model: LlamaCpp) -> None:
    with pytest.raises(ScoreEdgeError, match="nothing has been seen"):
        list(VideoMemory(model, BEFORE, GRID, cells=200).answer(QUESTION, 8))
    with pytest.raises(ScoreEdgeError, match="do not hold one step"):
        VideoMemory(model, BEFORE, GRID, cells=19)
    with pytest.raises(ScoreEdgeError, match="memorable share"):
        VideoMemory(model, BEFORE, GRID, cells=200, memorable=1.0)
