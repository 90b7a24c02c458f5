"""The interfaces of selectors, for a clip and for an endless stream, and how an order of tokens becomes scores."""

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Mask


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


class StepScorer(ABC):
    """The same scores for a stream, one step after the other, without knowing what comes."""

    @abstractmethod
    def score(self, tokens: Float32, previous: Float32) -> Float32:
        """Score the next step.

        Args:
            tokens: (N, D) float32, the step.
            previous: (N, D) float32, the step before it, zeros for the first.

        Returns:
            (N,) float32, higher = keep; infinite where there is nothing yet to compare with.
        """

    def kept(self, tokens: Float32, keep: Mask) -> None:
        """Learn which of the (N, D) tokens of the step just scored a budget kept, (N,) bool."""
        return


@runtime_checkable
class Causal(Protocol):
    """A selector that can score a stream."""

    name: str

    def by_step(self) -> StepScorer:
        """A scorer at the beginning of a stream."""
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
