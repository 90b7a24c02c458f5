"""``change``: the size of the inter-frame residual, ``||x[t,i] - x[t-1,i]||``; the plainest rule of surprise."""

import numpy as np

from score_edge.core import Float32
from score_edge.selection.base import StepScorer


class Change:
    """Keeps the tokens that changed most since the step before; step 0 goes first, entirely."""

    name = "change"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, infinite at step 0.
        """
        scores = np.full(tokens.shape[:2], np.inf, np.float32)
        for step in range(1, len(tokens)):
            scores[step] = _norm(tokens[step] - tokens[step - 1])
        return scores

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep()


class _ByStep(StepScorer):
    def __init__(self) -> None:
        self._begun = False

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        begun, self._begun = self._begun, True
        return _norm(tokens - previous) if begun else np.full(len(tokens), np.inf, np.float32)


def _norm(rows: Float32) -> Float32:
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows)), np.float32)
