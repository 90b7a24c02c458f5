"""Which steps of footage calibrate and which judge: spread by content, in one pass and constant memory."""

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from score_edge.core import Float32, Frame, Uint8
from score_edge.errors import ScoreEdgeError, require
from score_edge.native_path import printable
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.base import sample
from score_edge.runtime.sources.open_source import beginning, open_source
from score_edge.runtime.sources.video_file import VIDEO_SUFFIXES

_LOG: Final = logging.getLogger(__name__)
RUN: Final = 8
"""Steps of a held-out run; consecutive, because residuals and selection need neighbours."""
CYCLE: Final = 3
"""Of so many runs of a clip the second may be held out, the others may calibrate."""
RUNS: Final = 6
"""Held-out runs that are kept in memory."""
ENDLESS: Final = 1024
"""Frames of a source that has no end."""
ROOM: Final = 64
"""Steps that `Spread` first makes room for."""
THUMBNAIL: Final = 16
PLAIN: Final = 4.0
"""Grey levels between the darkest and the brightest thumbnail pixel below which a picture shows nothing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Encoder steps taken from footage, each (F, H, W, 3) uint8 as `Preprocessing.fit` returns it.

    Attributes:
        calibration: what the ranges are taken from.
        held_out: runs of consecutive steps that were never calibrated on.
        seen: steps the footage had.
    """

    calibration: list[Uint8]
    held_out: list[list[Uint8]]
    seen: int


@dataclass(slots=True)
class Spread:
    """The `count` steps of a stream that lie furthest apart in appearance and in change from the step before.

    A step is a point: its thumbnail, and the difference from the thumbnail before it. When there is one point too many,
    one of the closest pair goes. A still scene thus leaves few steps, a scene cut or a moving thing is always far away.

    Example:
        >>> spread = Spread(256)
        >>> for pixels in steps:  # doctest: +SKIP
        ...     spread.offer(pixels, signature(pixels, before))
    """

    count: int
    seed: int = 0
    _steps: list[tuple[int, Uint8] | None] = field(default_factory=list)
    _points: Float32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _gaps: Float32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    _offered: int = 0

    def offer(self, pixels: Uint8, point: Float32) -> None:
        """Take a step, and let one go where there are too many.

        Args:
            pixels: what is kept, by reference.
            point: (P,) float32, see `signature`; the same P every time.
        """
        if None not in self._steps:
            self._make_room(len(point))
        slot = self._steps.index(None)
        taken = np.array([step is not None for step in self._steps])
        gaps = np.where(taken, np.linalg.norm(self._points - point, axis=1), np.inf).astype(np.float32)
        self._steps[slot], self._points[slot] = (self._offered, pixels), point
        self._gaps[slot] = self._gaps[:, slot] = gaps
        self._offered += 1
        if None not in self._steps and len(self._steps) > self.count:
            pair = np.unravel_index(int(self._gaps.argmin()), self._gaps.shape)
            # Which of two like steps stays is a coin of this seed, the same for the same footage.
            loser = int(pair[int(np.random.default_rng((self.seed, self._offered)).integers(2))])
            self._steps[loser] = None
            self._gaps[loser] = self._gaps[:, loser] = np.inf

    def _make_room(self, size: int) -> None:
        """As the steps come: memory grows with the square of their number, and `count` may be far more than come."""
        before = len(self._steps)
        room = min(2 * before or ROOM, self.count + 1)
        self._steps += [None] * (room - before)
        points, gaps = np.zeros((room, size), np.float32), np.full((room, room), np.inf, np.float32)
        if before:
            points[:before], gaps[:before, :before] = self._points, self._gaps
        self._points, self._gaps = points, gaps

    def steps(self) -> list[Uint8]:
        """Those kept, in the order they came."""
        return [pixels for _, pixels in sorted((s for s in self._steps if s is not None), key=lambda s: s[0])]


def choose_steps(clips: Iterable[Iterable[Uint8]], count: int = 256, seed: int = 0) -> Choice:
    """Choose calibration steps spread by content, and runs of other steps to judge by.

    Args:
        clips: each the consecutive steps of one source, (F, H, W, 3) uint8; read once, at most
            `count` + RUN * (RUNS + 1) steps are held.
        count: calibration steps at most.
        seed: of the choice between like steps and of the held-out runs.

    Raises:
        ScoreEdgeError: fewer steps than a choice needs, or nothing but plain colour.
    """
    if count < 2:
        raise ScoreEdgeError(f"{count} calibration frames are too few", "256 is the default")
    spread, rng = Spread(count, seed), np.random.default_rng(seed)
    held: list[list[Uint8]] = []
    runs = seen = longest = 0
    for clip in clips:
        before: Float32 | None = None
        run: list[Uint8] = []
        for index, pixels in enumerate(clip):
            seen, longest = seen + 1, max(longest, index + 1)
            thumbnail = _thumbnail(pixels)
            if index // RUN % CYCLE == 1:
                run.append(pixels)
            else:
                spread.offer(pixels, signature(thumbnail, before))
            before = thumbnail
            if len(run) == RUN:
                held, runs, run = _reservoir(held, run, runs, rng), runs + 1, []
        if len(run) > 1:
            held, runs = _reservoir(held, run, runs, rng), runs + 1
    _check_enough(seen, longest, held, spread.steps())
    return Choice(spread.steps(), held, seen)


def signature(thumbnail: Float32, before: Float32 | None) -> Float32:
    """The point a step is compared by: (2P,) float32, what it shows and what changed; all of it where nothing led."""
    return np.concatenate([thumbnail, thumbnail if before is None else thumbnail - before])


def group_steps(
    frames: Iterable[Frame], preprocessing: Preprocessing, sizes: set[str] | None = None
) -> Iterator[Uint8]:
    """Frames as encoder steps, (F, H, W, 3) uint8 each; frames at the end that fill no step are left out.

    Args:
        frames: in time order, of any size.
        preprocessing: of the bundle.
        sizes: gets every frame size met, as ``WIDTHxHEIGHT``.
    """
    group: list[Frame] = []
    for frame in frames:
        group.append(frame)
        if sizes is not None:
            sizes.add(f"{frame.image.shape[1]}x{frame.image.shape[0]}")
        if len(group) == preprocessing.frames_per_step:
            yield preprocessing.fit(group)
            group.clear()


def read_clips(uris: Iterable[str | Path], fps: float) -> Iterator[Iterator[Frame]]:
    """The sampled frames of every source; a folder stands for its videos where it holds any, else for its images.

    Raises:
        ScoreEdgeError: a source cannot be read; on reaching it.
    """
    for uri in uris:
        for path in _videos(uri):
            yield frames_of(path, fps)


def frames_of(uri: str | Path, fps: float, most: int = ENDLESS) -> Generator[Frame, None, None]:
    """The sampled frames of one source; of one without an end the next `most`. What could not be read is logged."""
    address = Address(uri)
    with open_source(address) as source:
        yield from beginning(source, address, fps, most) if source.endless else sample(source, fps)
    if source.warning:
        _LOG.warning("%s", source.warning)


def _videos(uri: str | Path) -> list[str | Path]:
    folder = Address(uri).path
    if folder is None:
        return [uri]
    try:
        # Hidden are what macOS leaves beside every file on a card or a stick: ._site.mp4
        shown = (path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else ()
        return sorted(path for path in shown if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()) or [uri]
    except OSError as error:
        raise ScoreEdgeError(
            f"{printable(folder)} cannot be read: {error.strerror}", "check its permissions"
        ) from error


def _thumbnail(pixels: Uint8) -> Float32:
    """(THUMBNAIL * THUMBNAIL * 3,) float32 grey levels of a step's newest frame."""
    cv2 = require("cv2")

    small = cv2.resize(pixels[-1], (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).ravel()


def _reservoir(held: list[list[Uint8]], run: list[Uint8], runs: int, rng: np.random.Generator) -> list[list[Uint8]]:
    """The held-out runs after one more, each of all runs so far with the same chance."""
    if len(held) < RUNS:
        return [*held, run]
    place = int(rng.integers(runs + 1))
    return [*held[:place], run, *held[place + 1 :]] if place < RUNS else held


def _check_enough(seen: int, longest: int, held: list[list[Uint8]], chosen: list[Uint8]) -> None:
    if seen == 0:
        raise ScoreEdgeError("the footage has no frames that fill an encoder step", "give at least some seconds of it")
    if not held:
        most = " in one piece at most" if longest < seen else ""
        raise ScoreEdgeError(
            f"the footage gives {longest} encoder step{'s' if longest > 1 else ''}{most}, {RUN + 2} are needed: some "
            "calibrate, others must judge",
            "give longer footage, minutes are better than seconds",
        )
    spans = [float(np.ptp(_thumbnail(pixels))) for pixels in chosen]
    if max(spans) < PLAIN:
        level = float(np.mean([pixels.mean() for pixels in chosen]))
        raise ScoreEdgeError(
            f"the footage shows nothing: every frame is one plain colour (mean level {level:.0f} of 255)",
            "is the lens covered, or the recording broken?",
        )
