"""Worker processes that say which tokens of a clip rules keep at several budgets, while a decoder learns."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32
from score_edge.selection.base import Selector
from score_edge.selection.registry import get_selector
from score_edge.workers import worker_pool

RULES = (
    "change:dither=1.5:first=scored",
    "last-kept:dither=1:first=whole",
    "last-kept:dither=0.5:first=scored",
    "evs:dither=1:first=scored",
)
Clip = TypeVar("Clip")


def ranked(selectors: Sequence[Selector], tokens: Float32, counts: Sequence[int]) -> NDArray[np.int16]:
    """The order in which every selector keeps the tokens of a clip: those of a rank below the count are kept.

    Args:
        selectors: S of them.
        tokens: (T, N, D) float32.
        counts: tokens to keep, one budget each.

    Returns:
        (S, budgets, T * N) int16; ranks are those of `selection.budget.clip_top_k`.
    """
    ranks = np.empty((len(selectors), len(counts), tokens.shape[0] * tokens.shape[1]), np.int16)
    for i, selector in enumerate(selectors):
        for budget, count in enumerate(counts):
            order = np.argsort(-selector.score(tokens, count).ravel(), kind="stable")
            ranks[i, budget, order] = np.arange(order.size)
    return ranks


class RankFarm(Generic[Clip]):
    """Ranks clips in other processes.

    Args:
        workers: processes.
    """

    def __init__(self, workers: int) -> None:
        self._pool = worker_pool(workers, _open)
        self._jobs: deque[tuple[list[Clip], Future[list[NDArray[np.int16]]]]] = deque()

    def __enter__(self) -> "RankFarm[Clip]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rank(self, clips: list[Clip], tokens: list[NDArray[np.float16]], counts: list[list[int]]) -> None:
        """Rank some clips, each (T, N, D), at its own budgets."""
        self._jobs.append((clips, self._pool.submit(_rank, tokens, counts)))

    def finished(self, wait: bool = False) -> Iterator[tuple[Clip, NDArray[np.int16]]]:
        """Clips that are ranked, each with what `ranked` gives, in the order in which they came.

        Args:
            wait: for all of them.
        """
        while self._jobs and (wait or self._jobs[0][1].done()):
            clips, future = self._jobs.popleft()
            yield from zip(clips, future.result(), strict=True)


_selectors: list[Selector]


def _open() -> None:
    global _selectors
    _selectors = [get_selector(name) for name in RULES]


def _rank(tokens: list[NDArray[np.float16]], counts: list[list[int]]) -> list[NDArray[np.int16]]:
    return [ranked(_selectors, clip.astype(np.float32), own) for clip, own in zip(tokens, counts, strict=True)]
