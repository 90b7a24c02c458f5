"""``evs``: Efficient Video Sampling in embedding space, as in vLLM (``--video-pruning-rate``; arXiv 2510.14624)."""

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32
from score_edge.selection.base import StepScorer

_SMALLEST_NORM = 1e-8  # torch's cosine_similarity: a zero vector is similar to nothing


def cosine_change(tokens: Float32) -> Float32:
    """How far each token has turned from its predecessor, ``1 - cos(x[t,i], x[t-1,i])``.

    Args:
        tokens: (T, N, D) float32.

    Returns:
        (T - 1, N) float32 in [0, 2] for steps 1 to T - 1; exactly 0 where nothing changed.
    """
    squares = _squares(tokens)
    return _change(_products(tokens[1:], tokens[:-1]), squares[1:], squares[:-1])


def _squares(tokens: Float32) -> NDArray[np.float64]:
    squares = _products(tokens, tokens).astype(np.float64)
    return np.maximum(squares, _SMALLEST_NORM**2, out=squares)


def _products(a: Float32, b: Float32) -> Float32:
    return np.asarray(np.einsum("...d,...d->...", a, b))


def _change(products: Float32, squares: NDArray[np.float64], before: NDArray[np.float64]) -> Float32:
    return np.asarray(1 - products / np.sqrt(squares * before), np.float32)


class Evs:
    """Keeps the tokens that turned most since the step before; step 0 goes first, entirely.

    The reference is always the step before, also where that token was dropped, so slow drift is never seen. vLLM never
    keeps fewer than N tokens; below that, here, the first tokens of step 0 are left.
    """

    name = "evs"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, infinite at step 0, then the cosine change.
        """
        scores = np.full(tokens.shape[:2], np.inf, np.float32)
        scores[1:] = cosine_change(tokens)
        return scores

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep()


class _ByStep(StepScorer):
    def __init__(self) -> None:
        self._before: NDArray[np.float64] | None = None  # (N,), squared lengths of the step before

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        squares, before = _squares(tokens), self._before
        self._before = squares
        if before is None:
            return np.full(len(tokens), np.inf, np.float32)
        return _change(_products(tokens, previous), squares, before)
