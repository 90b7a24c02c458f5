"""Dithering: of tokens that score alike, others are kept in every step (low-discrepancy Gumbel perturbation).

A policy learns from masks drawn at random, in which every token that is worth keeping appears now and then. The k best
of its probabilities are something else: where fifty tokens of things at rest rate within a hair of each other, the
same few of them are kept in every step and the others never. Log-odds plus Gumbel noise, ranked, are draws without
replacement by these odds (Kool et al. 2019, arXiv 1903.06059). Ours: the noise is a low-discrepancy sequence instead of
random, so that every place is drawn soon and the choice is the same every time.

Scores that are no odds are given some: by their rank among all scores of the clip, or of the recent steps of a stream.
"""

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32

_GOLDEN, _ROOT = (5**0.5 - 1) / 2, 2**0.5
_SURE = 1e-7  # a probability of 0 or 1 has no odds


def log_odds(keep: Float32) -> Float32:
    """``log p / (1 - p)`` of keep probabilities; finite, NaN where `keep` is."""
    p = np.clip(keep.astype(np.float64), _SURE, 1 - _SURE)
    return np.asarray(np.log(p / (1 - p)), np.float32)


def rank_odds(scores: Float32) -> Float32:
    """Log-odds by rank: the share of scores that each exceeds, equals in raster order. Infinite ones stay infinite."""
    flat = scores.ravel()
    order = np.argsort(flat, kind="stable")
    share = np.empty(flat.size, np.float32)
    share[order] = (np.arange(flat.size, dtype=np.float32) + 0.5) / flat.size
    return np.asarray(_like(log_odds(share), flat).reshape(scores.shape))


def recent_odds(scores: Float32, recent: NDArray[np.float32]) -> Float32:
    """The same for a step of a stream, by rank among the scores of recent steps, in ascending order."""
    share = (np.searchsorted(recent, scores) + 0.5) / (len(recent) + 1)
    return _like(log_odds(share.astype(np.float32)), scores)


def dithered(odds: Float32, first_step: int, weight: float) -> Float32:
    """Log-odds plus the perturbation.

    Args:
        odds: (T, N) float32; infinite and NaN stay so.
        first_step: how many steps came before.
        weight: of the perturbation: 1 draws by the odds, 0 takes the highest.

    Returns:
        (T, N) float32, higher = keep.

    Example:
        >>> dithered(np.zeros((3, 2), np.float32), 0, weight=0.5).argmax(axis=1)
        array([1, 1, 0])
    """
    steps = np.arange(first_step, first_step + len(odds))[:, None]
    # Multiples of irrational numbers fill the unit interval evenly; those of the golden ratio leave the smallest gaps.
    even = np.mod(0.5 + steps * _GOLDEN + np.arange(odds.shape[1]) * _ROOT, 1)
    gumbel = -np.log(-np.log(np.clip(even, _SURE, 1 - _SURE)))
    return np.asarray(odds + weight * gumbel, np.float32)


def _like(odds: Float32, scores: Float32) -> Float32:
    """Odds, but what was not finite."""
    return np.where(np.isfinite(scores), odds, scores)
