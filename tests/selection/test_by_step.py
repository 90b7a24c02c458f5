"""Selectors on a stream: the very scores that they give a clip."""

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.open_graph import open_policy
from score_edge.selection.last_kept import LastKept, _Gate
from score_edge.selection.registry import get_selector, step_scorer
from score_edge.selection.residual import Residual

GRID = Grid(3, 5)


def clip(steps: int = 12, width: int = 16, seed: int = 0, tokens: int = GRID.tokens) -> np.ndarray:
    rng = np.random.default_rng(seed)
    changes = rng.standard_normal((steps, tokens, width)) * (rng.random((steps, tokens, 1)) < 0.3)
    return np.cumsum(changes + 0.01 * rng.standard_normal(changes.shape), axis=0).astype(np.float32)


@pytest.mark.parametrize("width", [1, 16, 37, 192, 896])
@pytest.mark.parametrize("name", ["change", "evs", "surge", "random", "all"])
def test_a_stream_is_scored_as_a_clip(name: str, width: int) -> None:
    tokens = clip(width=width)
    selector = get_selector(name, grid=GRID, seed=5)
    scorer, residual = step_scorer(selector), Residual()
    found = [scorer.score(step, residual.advance(step)) for step in tokens]
    assert np.array_equal(found, selector.score(tokens, 20))


def test_the_policy_scores_a_stream_as_a_clip() -> None:
    tokens = clip(steps=40, width=192, tokens=36)
    selector = get_selector("score", policy=open_policy(Bundle.open("reference"), "cpu"))
    scorer, residual = step_scorer(selector), Residual()
    found = [scorer.score(step, residual.advance(step)) for step in tokens]
    assert np.array_equal(found, selector.score(tokens, 20))


@pytest.mark.parametrize("threshold", [0.5, 2.0, 5.0])
def test_last_kept_fires_as_its_gate_does(threshold: float) -> None:
    tokens = clip(steps=30)
    gate = _Gate(tokens)
    gate.run(threshold)
    scorer, residual = step_scorer(LastKept()), Residual()
    for step, expected in zip(tokens, gate.change, strict=True):
        found = scorer.score(step, residual.advance(step))
        assert np.array_equal(found, expected)
        scorer.kept(step, found >= threshold)


def test_last_kept_waits_for_every_token_to_be_kept_once() -> None:
    tokens = clip(steps=2)
    scorer = step_scorer(LastKept())
    scorer.score(tokens[0], np.zeros_like(tokens[0]))
    some = np.arange(GRID.tokens) < 4
    scorer.kept(tokens[0], some)
    assert np.array_equal(np.isfinite(scorer.score(tokens[1], tokens[0])), some)


@pytest.mark.parametrize("name", ["vidcom2", "uniform", "dtd"])
def test_what_needs_the_whole_clip_says_so(name: str) -> None:
    with pytest.raises(ScoreEdgeError, match=f"{name} needs a whole clip"):
        step_scorer(get_selector(name))
