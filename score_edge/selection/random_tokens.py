"""``random``: every token is as likely as any other, the baseline that a selector must beat."""

import numpy as np

from score_edge.core import Float32
from score_edge.selection.base import StepScorer


class RandomTokens:
    """Uniformly random scores.

    One seed gives the same choice for every clip of a shape, and the choice at a low retention is part of the choice at
    a higher one. Give each clip its own seed to average over choices.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def score(self, tokens: Float32, count: int) -> Float32:
        """(T, N) float32 in [0, 1), from the seed and the shape of the (T, N, D) tokens alone."""
        return np.random.default_rng(self._seed).random(tokens.shape[:2], np.float32)

    def by_step(self) -> StepScorer:
        """The same for a stream; its first T steps are scored as a clip of T steps is."""
        return _ByStep(self._seed)


class _ByStep(StepScorer):
    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        return self._rng.random(len(tokens), np.float32)
