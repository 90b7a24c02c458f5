"""``surge``: surprise against a linear prediction (SURGE, ICLR 2026, ``surge_core.py`` of its authors)."""

import math
from collections.abc import Callable

import numpy as np

from score_edge.core import Float32, Grid
from score_edge.errors import ScoreEdgeError
from score_edge.selection.base import StepScorer

_DECAY = 0.9
_EPSILON = 1e-8


class Surge:
    """Keeps the tokens that a linear prediction missed by more than usual for their place; step 0 goes first, entirely.

    With ``d = x[t-1] - x[t-2]`` and ``d'`` what is left of d when the plane ``[1, x, y]`` that fits it best over the
    grid is removed from each channel: ``e = ||x[t] - x[t-1] - d'||^2``, ``v = 0.9 v + 0.1 e``, the score is
    ``e / (v + 1e-8)``, never above 10. At step 1 the prediction is ``x[0]`` and ``v = e``, so whatever changed there
    scores 1.

    Args:
        grid: the grid the N tokens lie on; None takes a square one.
    """

    name = "surge"

    def __init__(self, grid: Grid | None = None) -> None:
        self._grid = grid

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, infinite at step 0.

        Raises:
            ScoreEdgeError: the N tokens of a step do not lie on the grid.
        """
        scores = np.empty(tokens.shape[:2], np.float32)
        stream = self.by_step()
        for t, step in enumerate(tokens):
            scores[t] = stream.score(step, tokens[t - 1])
        return scores

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep(self._grid_of)

    def _grid_of(self, tokens_per_step: int) -> Grid:
        side = math.isqrt(tokens_per_step)
        grid = self._grid or Grid(side, side)
        if grid.tokens != tokens_per_step:
            known = f"the {grid.height} x {grid.width} grid it was given" if self._grid else "a square grid"
            raise ScoreEdgeError(
                f"selector surge: {tokens_per_step} visual tokens per step do not fill {known}",
                "pass the grid of the encoder to get_selector",
            )
        return grid


class _ByStep(StepScorer):
    def __init__(self, grid_of: Callable[[int], Grid]) -> None:
        self._grid_of = grid_of
        self._plane: Float32 | None = None  # (N, r)
        self._moved: Float32 | None = None  # (N, D), how the step before differed from its predecessor
        self._average: Float32 | None = None  # (N,)

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        if self._plane is None:
            self._plane = _plane(self._grid_of(len(tokens)))
            return np.full(len(tokens), np.inf, np.float32)
        moved = tokens - previous
        if self._moved is None:
            error = moved
        else:
            error = self._plane @ (self._plane.T @ self._moved)
            error -= self._moved
            error += moved
        self._moved = moved
        surprise: Float32 = np.einsum("nd,nd->n", error, error)
        before = self._average
        self._average = surprise if before is None else _DECAY * before + (1 - _DECAY) * surprise
        return np.asarray(surprise / (self._average + _EPSILON), np.float32)


def _plane(grid: Grid) -> Float32:
    """(N, r) float32, orthonormal columns that span [1, x, y] on the grid; r < 3 where it is one token high or wide."""
    y, x = np.divmod(np.arange(grid.tokens), grid.width)
    columns = np.stack([np.ones(grid.tokens), x, y], axis=1)
    basis, weights, _ = np.linalg.svd(columns, full_matrices=False)
    return np.ascontiguousarray(basis[:, weights > 1e-9 * weights[0]], dtype=np.float32)
