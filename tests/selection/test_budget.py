"""The clip budget: exact counts, stable ties, and what it refuses."""

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.selection.budget import clip_top_k, token_count


def plain_top_k(scores: np.ndarray, count: int) -> np.ndarray:
    """Every token in a list, sorted by score; Python's sort is stable."""
    flat = [(float(value), place) for place, value in enumerate(scores.ravel())]
    kept = {place for _, place in sorted(flat, key=lambda pair: -pair[0])[:count]}
    return np.array([place in kept for place in range(len(flat))]).reshape(scores.shape)


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_against_a_plain_sort(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(9, 11)).astype(np.float32)
    scores[0, :4] = np.inf
    scores[1, :4] = -np.inf
    for count in range(1, scores.size + 1):
        mask = clip_top_k(scores, count)
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, plain_top_k(scores, count))


def test_ties_go_to_the_earlier_token() -> None:
    mask = clip_top_k(np.zeros((3, 4), np.float32), 6)
    assert mask.ravel().tolist() == [True] * 6 + [False] * 6


def test_nan_is_refused() -> None:
    scores = np.zeros((3, 4), np.float32)
    scores[1, 2] = np.nan
    with pytest.raises(ScoreEdgeError, match="1 of 12 token scores are not a number"):
        clip_top_k(scores, 3)


@pytest.mark.parametrize("count", [0, -1, 13])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ScoreEdgeError, match=f"cannot keep {count} of 12"):
        clip_top_k(np.zeros((3, 4), np.float32), count)


@pytest.mark.parametrize(
    ("steps", "per_step", "retention", "count"),
    [(64, 196, 1.0, 12544), (64, 196, 0.25, 3136), (64, 196, 0.1, 1254), (8, 36, 0.05, 14), (1, 1, 0.01, 1)],
)
def test_token_count(steps: int, per_step: int, retention: float, count: int) -> None:
    assert token_count(steps, per_step, retention) == count


@pytest.mark.parametrize("retention", [0.0, -0.1, 1.01, 25, float("nan"), float("inf")])
def test_retention_outside_its_range(retention: float) -> None:
    with pytest.raises(ScoreEdgeError, match=r"outside \(0, 1\]"):
        token_count(8, 36, retention)


def test_an_empty_clip_is_refused() -> None:
    with pytest.raises(ScoreEdgeError, match="nothing to keep"):
        token_count(0, 36, 0.5)
