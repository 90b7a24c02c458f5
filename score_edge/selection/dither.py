"""Taking turns: of tokens that a policy rates alike, others are kept in every step, as when the policy was trained.

A policy learns from masks drawn at random, in which every token that is worth keeping appears now and then. The k best
of its probabilities are something else: where fifty tokens of things at rest rate within a hair of each other, the
same few of them are kept in every step and the others never. Log-odds plus Gumbel noise, ranked, are draws without
replacement by these odds (Kool et al. 2019, arXiv 1903.06059). Ours: the noise is spread evenly instead of drawn, so
that every place gets its turn soon and the choice is the same every time.
"""

import numpy as np

from score_edge.core import Float32

SPREAD = 0.5
"""Weight of the noise: 1 draws as in training, 0 takes the k best. Found by tools/rules_not_taken.py --seed 2."""
_GOLDEN, _ROOT = (5**0.5 - 1) / 2, 2**0.5
_SURE = 1e-7  # a probability of 0 or 1 has no odds


def take_turns(keep: Float32, first_step: int, spread: float = SPREAD) -> Float32:
    """Log-odds of keeping, plus each token's turn.

    Args:
        keep: (T, N) float32 keep probabilities.
        first_step: how many steps came before.
        spread: weight of the turns.

    Returns:
        (T, N) float32, higher = keep; NaN where `keep` is.

    Example:
        >>> take_turns(np.full((3, 2), 0.5, np.float32), 0).argmax(axis=1)
        array([1, 1, 0])
    """
    odds = np.clip(keep.astype(np.float64), _SURE, 1 - _SURE)
    steps = np.arange(first_step, first_step + len(keep))[:, None]
    # Multiples of irrational numbers fill the unit interval evenly; those of the golden ratio leave the smallest gaps.
    even = np.mod(0.5 + steps * _GOLDEN + np.arange(keep.shape[1]) * _ROOT, 1)
    turns = -np.log(-np.log(np.clip(even, _SURE, 1 - _SURE)))
    return np.asarray(np.log(odds / (1 - odds)) + spread * turns, np.float32)
