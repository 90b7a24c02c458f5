"""A video that arrives step by step: the cache is that of the whole clip, and its oldest steps can leave."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.language.llama_sequence import LlamaSequence

pytest.importorskip("llama_cpp")

BEFORE = "<|im_start|>user\n<|vision_start|>"
QUESTION = "<|vision_end|>What moved in the video, and where did it go?<|im_end|>\n<|im_start|>assistant\n"
GRID = Grid(4, 5)


@contextmanager
def open_sequence(path: Path, **options: Any) -> Iterator[LlamaSequence]:
    with LlamaCpp(path, **options) as model:
        yield model.sequence()


def forget_before(model: LlamaSequence, kept: int, step: int) -> bool:
    """Drop so many tokens, which are all of the steps before this one."""
    mark = model.mark()
    return model.forget(mark.block, mark.block + (step if model.model.capabilities.keeps_positions else kept), kept)


def whole_clip(steps: int, retention: float = 0.3, seed: int = 0) -> KeptTokens:
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((steps, GRID.tokens, 128), dtype=np.float32)
    mask = rng.random(tokens.shape[:2]) < retention
    mask[1] = False  # a step of which nothing is kept
    return KeptTokens.gather(tokens, mask, GRID)


def step_of(kept: KeptTokens, t: int) -> KeptTokens:
    rows = kept.positions[:, 0] == t
    return KeptTokens(kept.embeddings[rows], kept.positions[rows], t + 1, kept.grid)


def append_steps(model: LlamaSequence, kept: KeptTokens) -> None:
    for t in range(kept.steps):
        model.append(Rows.of(step_of(kept, t), continues=t > 0))


def logits(model: LlamaSequence) -> np.ndarray:
    video = model.mark()
    model.append(QUESTION)
    found = model.logits()
    model.rollback(video)
    return found


@pytest.fixture(params=["f32", "plain"])
def model(request: pytest.FixtureRequest, gguf_files: dict[str, Path]) -> Iterator[LlamaSequence]:
    with open_sequence(gguf_files[request.param], context=1024, threads=1, cache="f32") as opened:
        opened.append(BEFORE)
        yield opened


@pytest.mark.parametrize("steps", [3, 12])  # fewer and more than the grid has rows and columns
def test_step_by_step_equals_the_whole_clip(model: LlamaSequence, steps: int) -> None:
    start, kept = model.mark(), whole_clip(steps)
    model.append(Rows.of(kept))
    expected, after = logits(model), model.mark()
    model.rollback(start)
    append_steps(model, kept)
    assert model.mark() == after
    assert np.abs(logits(model) - expected).max() <= 1e-2


def test_questions_between_the_steps_leave_no_trace(model: LlamaSequence) -> None:
    start, kept = model.mark(), whole_clip(12)
    append_steps(model, kept)
    undisturbed = logits(model)
    model.rollback(start)
    for t in range(kept.steps):
        model.append(Rows.of(step_of(kept, t), continues=t > 0))
        logits(model)
    assert np.array_equal(logits(model), undisturbed)


def test_what_was_forgotten_has_no_say(model: LlamaSequence) -> None:
    """Forgetting everything but steps from 6 on, in a one-layer sense: the model goes on, cells are given back."""
    start, kept = model.mark(), whole_clip(12)
    append_steps(model, kept)
    full = logits(model)
    old = int((kept.positions[:, 0] < 6).sum())
    assert forget_before(model, old, 6)
    assert model.mark().cells == start.cells + kept.kept - old
    shorter = logits(model)
    assert np.isfinite(shorter).all() and not np.array_equal(shorter, full)
    # Nothing is left to forget: the same call with no cells changes nothing.
    assert forget_before(model, 0, 6)
    assert np.array_equal(logits(model), shorter)


def test_forgetting_all_steps_leaves_the_text_alone(model: LlamaSequence) -> None:
    start, kept = model.mark(), whole_clip(6)
    append_steps(model, kept)
    assert forget_before(model, kept.kept, kept.steps)
    assert model.mark().cells == start.cells
    later = whole_clip(7, seed=1)
    last = step_of(later, 6)
    model.append(Rows.of(last, continues=True))
    assert model.mark().cells == start.cells + last.kept
    assert np.isfinite(logits(model)).all()


def test_a_window_runs_for_ever_in_constant_cells(gguf_files: dict[str, Path]) -> None:
    """Many times more tokens pass through than there are cells."""
    rng = np.random.default_rng(0)
    for file in ("f32", "plain"):
        with open_sequence(gguf_files[file], context=160, threads=1) as model:
            model.append(BEFORE)
            sink = model.mark().cells
            held: list[int] = []
            for t in range(300):
                places = np.sort(rng.choice(GRID.tokens, 3, replace=False))
                positions = np.stack([np.full(3, t), places // 5, places % 5], axis=1).astype(np.int32)
                rows = rng.standard_normal((3, 128), dtype=np.float32)
                if len(held) == 16:
                    assert forget_before(model, held.pop(0), t - 15)
                model.append(Rows.of(KeptTokens(rows, positions, t + 1, GRID), continues=t > 0))
                held.append(3)
                assert model.mark().cells == sink + sum(held)
            assert np.isfinite(logits(model)).all()


def test_a_step_that_goes_back_is_refused_and_leaves_no_trace(gguf_files: dict[str, Path]) -> None:
    with open_sequence(gguf_files["f32"], context=256, threads=1) as model:
        kept = whole_clip(8)
        append_steps(model, kept)
        before, mark = logits(model), model.mark()
        with pytest.raises(ScoreEdgeError):
            model.append(Rows.of(step_of(kept, 2), continues=True))
        assert model.mark() == mark
        assert np.array_equal(logits(model), before)
