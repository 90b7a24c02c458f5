"""``dtd``: Differential Token Dropping of TimeChat-Online (arXiv 2504.17343), feature variant, fixed share per step."""

import numpy as np

from score_edge.core import Float32
from score_edge.selection.base import ordered_scores
from score_edge.selection.evs import cosine_change


class Dtd:
    """Keeps step 0 entirely and then the same number of most changed tokens in every step.

    This is the method's ``absolute=False`` form, which a live stream can run. Its other form drops a token when
    ``cos(x[t,i], x[t-1,i]) > tau``; with tau picked per clip to meet the count, that keeps exactly what ``evs`` keeps,
    so it is not repeated here. What does not divide by the steps goes to the most changed tokens that are next in line.
    """

    name = "dtd"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used: the scores deal out one token per step, round after round.

        Returns:
            (T, N) float32, infinite at step 0.
        """
        change = np.zeros(tokens.shape[:2], np.float32)
        change[1:] = cosine_change(tokens)
        place = np.argsort(np.argsort(-change, axis=1, kind="stable"), axis=1)  # (T, N), 0 = most changed of its step
        scores = ordered_scores(-place, change)
        scores[0] = np.inf
        return scores
