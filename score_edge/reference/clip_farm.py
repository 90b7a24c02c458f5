"""Worker processes that render clips of the reference world, as fast as something can learn from them.

Images go through one file that all processes map, everything else through pipes: a clip of 32 steps is 1.8 MB.
"""

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Uint8
from score_edge.reference import world
from score_edge.reference.labels import Labels, label
from score_edge.workers import worker_pool

CLIPS_PER_JOB = 4
AHEAD = 3  # jobs per worker that are rendered or wait for it
_STEP_BYTES = world.FRAMES_PER_STEP * world.SIZE**2 * 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A clip to render; see `world.make_clip`."""

    seed: int
    index: int
    steps: int
    regime: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered clip.

    Attributes:
        images: (T, frames per step, SIZE, SIZE, 3) uint8; valid until the next clip is asked for.
        evidence: (T, N) uint8, bit q is set where a token carries the answer to question q.
        asked: text, answer and kind of each question.
    """

    wanted: Wanted
    images: Uint8
    labels: Labels
    evidence: NDArray[np.uint8]
    asked: tuple[tuple[str, str, str], ...]


def endless(seed: int, start: int, lengths: dict[int, float], regimes: tuple[str, ...]) -> Iterator[Wanted]:
    """Clip after clip of one split, each of a length and a regime drawn for it.

    Args:
        seed: one of the world's split seeds.
        start: index of the first clip.
        lengths: encoder steps of a clip and how often each is drawn.
        regimes: each is drawn equally often.
    """
    index = start
    while True:
        draw = np.random.default_rng((seed, index, 2))
        steps = int(draw.choice(list(lengths), p=list(lengths.values())))
        yield Wanted(seed, index, steps, str(draw.choice(regimes)))
        index += 1


class ClipFarm:
    """Renders what is wanted, in order, ahead of whoever takes it.

    Args:
        wanted: clips, possibly without end.
        steps: longest of them.
        workers: processes.
    """

    def __init__(self, wanted: Iterable[Wanted], steps: int, workers: int) -> None:
        self._wanted = iter(wanted)
        self._folder = tempfile.TemporaryDirectory()
        self._shape = (AHEAD * workers * CLIPS_PER_JOB, steps * _STEP_BYTES)
        path = Path(self._folder.name) / "images"
        self._images: Uint8 = np.memmap(path, np.uint8, "w+", shape=self._shape)
        self._free = deque(range(0, self._shape[0], CLIPS_PER_JOB))
        self._pool = worker_pool(workers, _open_images, path, self._shape)
        self._jobs: deque[tuple[int, list[Wanted], Future[list[_Facts]]]] = deque()
        self._order_more()

    def __enter__(self) -> "ClipFarm":
        return self

    def __exit__(self, *exception: object) -> None:
        self._wanted = iter(())
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def __iter__(self) -> Iterator[Rendered]:
        """Every clip, waiting for it if need be."""
        while self._jobs:
            yield from self._take()

    def finished(self, jobs: int) -> Iterator[Rendered]:
        """Clips that are ready, without waiting, of so many jobs of CLIPS_PER_JOB at most: taking one has its price."""
        for _ in range(jobs):
            if self._jobs and self._jobs[0][2].done():
                yield from self._take()

    def _take(self) -> Iterator[Rendered]:
        slot, wanted, future = self._jobs.popleft()
        try:
            for i, (clip, facts) in enumerate(zip(wanted, future.result(), strict=True)):
                flat = self._images[slot + i, : clip.steps * _STEP_BYTES]
                images = flat.reshape(clip.steps, world.FRAMES_PER_STEP, world.SIZE, world.SIZE, 3)
                yield Rendered(clip, images, *facts)
        finally:  # also where no more is taken of a job
            self._free.append(slot)
            self._order_more()

    def _order_more(self) -> None:
        while self._free:
            wanted = list(islice(self._wanted, CLIPS_PER_JOB))
            if not wanted:
                return
            slot = self._free.popleft()
            self._jobs.append((slot, wanted, self._pool.submit(_render, slot, wanted)))


_Facts = tuple[Labels, NDArray[np.uint8], tuple[tuple[str, str, str], ...]]
_mapped: Uint8


def _open_images(path: Path, shape: tuple[int, int]) -> None:
    global _mapped
    _mapped = np.memmap(path, np.uint8, "r+", shape=shape)


def _render(slot: int, wanted: list[Wanted]) -> list[_Facts]:
    found = []
    for i, job in enumerate(wanted):
        clip = world.make_clip(job.seed, job.index, job.steps, job.regime)
        _mapped[slot + i, : clip.images.size] = clip.images.ravel()
        bits = [question.evidence.astype(np.uint8) << q for q, question in enumerate(clip.questions)]
        evidence = np.bitwise_or.reduce(bits)
        found.append((label(clip), evidence, tuple((q.text, q.answer, q.kind) for q in clip.questions)))
    return found
