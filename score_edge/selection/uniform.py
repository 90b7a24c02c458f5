"""``uniform``: whole steps at even intervals, what a lower frame rate would keep."""

import numpy as np

from score_edge.core import Float32


class Uniform:
    """Keeps ``ceil(count / N)`` evenly spaced steps, the last of them thinned evenly to meet the count.

    Does not look at the tokens. Step j of k is the middle of the j-th of k equal parts of the clip.
    """

    name = "uniform"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: tokens the budget will keep.

        Returns:
            (T, N) float32, 1 for the ``count`` kept tokens, else 0.
        """
        steps, per_step = tokens.shape[:2]
        scores = np.zeros((steps, per_step), np.float32)
        chosen = _evenly(-(-count // per_step), steps)
        scores[chosen[:-1]] = 1
        scores[chosen[-1], _evenly(count - per_step * (len(chosen) - 1), per_step)] = 1
        return scores


def _evenly(picks: int, places: int) -> list[int]:
    """The middles of ``picks`` equal parts of ``range(places)``."""
    return [(2 * pick + 1) * places // (2 * picks) for pick in range(picks)]
