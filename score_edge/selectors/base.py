"""The interface of every selector, and how an order of tokens becomes scores."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32


class Selector(Protocol):
    """Gives every visual token of a clip a score; a budget then keeps the highest."""

    name: str

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32, every visual token of the clip.
            count: tokens the budget will keep; most selectors do not need it.

        Returns:
            (T, N) float32, higher = keep.
        """
        ...


def ordered_scores(first: NDArray[Any], second: NDArray[Any]) -> Float32:
    """Scores whose top-k is the top-k by one criterion and, where that is equal, by another.

    Args:
        first: (T, N), the criterion that decides, higher = keep.
        second: (T, N), decides among equals, higher = keep; what is still equal stays in raster order.

    Returns:
        (T, N) float32, minus the place of each token in that order; exact up to 2**24 tokens.
    """
    order = np.lexsort((-second.ravel(), -first.ravel().astype(np.float64)))
    scores = np.empty(first.size, np.float32)
    scores[order] = -np.arange(first.size, dtype=np.float32)
    scores[np.isnan(second.ravel())] = np.nan  # an order would hide it from the budget, which refuses it
    return scores.reshape(first.shape)
