"""Dithering: fair among equals, no matter to what is far ahead, and in law the draws of the training."""

import numpy as np
import pytest

from score_edge.selection.budget import clip_top_k
from score_edge.selection.dither import dithered, log_odds, rank_odds, recent_odds

STEPS, TOKENS = 90, 36


def draw(keep: np.ndarray, first_step: int, weight: float = 0.5) -> np.ndarray:
    return dithered(log_odds(keep), first_step, weight)


def probability(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def test_equals_are_kept_equally_often_and_soon_again() -> None:
    keep = clip_top_k(draw(np.full((STEPS, TOKENS), 0.3, np.float32), 0), STEPS * TOKENS // 10)
    times = keep.sum(axis=0)
    assert times.min() >= 7 and times.max() <= 11  # 9 of 90 steps each
    waits = [np.diff(np.flatnonzero(keep[:, i])).max() for i in range(TOKENS)]
    assert max(waits) <= 21
    assert keep.sum(axis=1).min() >= 2 and keep.sum(axis=1).max() <= 6  # 3.6 of a step on average


def test_what_is_far_ahead_is_always_kept() -> None:
    logits = np.zeros((STEPS, TOKENS))
    logits[20:24, 5] = 12
    keep = clip_top_k(draw(probability(logits), 0), 40)
    assert keep[20:24, 5].all()


def test_no_weight_is_the_order_of_the_probabilities() -> None:
    logits = np.random.default_rng(0).standard_normal((STEPS, TOKENS))
    scores = draw(probability(logits), 0, weight=0)
    assert np.array_equal(clip_top_k(scores, 300), clip_top_k(logits.astype(np.float32), 300))


def test_a_weight_of_one_keeps_as_often_as_draws_without_replacement() -> None:
    levels = np.repeat([-2.0, -1.0, 0.0, 1.0], TOKENS // 4)
    scores = draw(probability(np.tile(levels, (STEPS, 1))), 0, weight=1)
    keep = clip_top_k(scores, STEPS * TOKENS // 10)
    rng, odds = np.random.default_rng(1), np.exp(np.tile(levels, STEPS))
    drawn = np.zeros(STEPS * TOKENS)
    for _ in range(20):
        drawn[rng.choice(len(odds), keep.sum(), replace=False, p=odds / odds.sum())] += 1 / 20
    for level in np.unique(levels):
        expected = drawn.reshape(STEPS, TOKENS)[:, levels == level].mean()
        assert keep[:, levels == level].mean() == pytest.approx(expected, abs=0.02)


def test_a_stream_goes_on_where_it_was() -> None:
    keep = np.random.default_rng(2).random((STEPS, TOKENS)).astype(np.float32)
    assert np.array_equal(draw(keep, 0)[50:], draw(keep[50:], 50))
    assert np.isfinite(draw(keep, 2_000_000_000)).all()


def test_certainty_is_finite_and_nan_stays() -> None:
    scores = draw(np.array([[0, 1, np.nan]], np.float32), 0)
    assert np.isfinite(scores[0, :2]).all() and np.isnan(scores[0, 2])


def test_ranks_become_odds_and_what_is_infinite_stays() -> None:
    scores = np.array([[np.inf, np.inf], [3, 1], [2, 1]], np.float32)
    odds = rank_odds(scores)
    assert np.isposinf(odds[0]).all()
    assert odds[1, 0] > odds[2, 0] > odds[2, 1] > odds[1, 1]
    # Symmetric about the middle: the lowest of six is as unlikely as the highest is likely.
    assert rank_odds(np.arange(6, dtype=np.float32)[None]).sum() == pytest.approx(0, abs=1e-5)


def test_a_streams_odds_are_those_among_recent_scores() -> None:
    recent = np.arange(100, dtype=np.float32)
    odds = recent_odds(np.array([-1, 49.5, 200, np.inf, np.nan], np.float32), recent)
    assert odds[0] < -4 and odds[1] == pytest.approx(0, abs=0.05) and odds[2] > 4
    assert np.isposinf(odds[3]) and np.isnan(odds[4])
