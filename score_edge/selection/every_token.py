"""``all``: no selection, the unpruned baseline."""

import numpy as np

from score_edge.core import Float32
from score_edge.selection.base import StepScorer


class EveryToken:
    """Every token is worth the same. Meant for retention 1: a smaller budget keeps the first tokens of the clip."""

    name = "all"

    def score(self, tokens: Float32, count: int) -> Float32:
        """(T, N) float32 ones, whatever the (T, N, D) tokens and the count."""
        return np.ones(tokens.shape[:2], np.float32)

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep()


class _ByStep(StepScorer):
    def score(self, tokens: Float32, previous: Float32) -> Float32:
        return np.ones(len(tokens), np.float32)
