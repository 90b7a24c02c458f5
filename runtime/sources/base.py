"""What gives frames, who may free its decoder, and how frames are sampled by time."""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError

_SLOWEST, _FASTEST = 1e-6, 1e6  # frames per second: a frame in eleven days; beyond, times and waits overflow


class Source(ABC):
    """An iterable of frames that is read once, in constant memory, and closed by ``with``.

    Attributes:
        duration_s: seconds of video; what the container promises (0 when it does not), and once all frames were
            read what was really there.
        warning: one line on what could not be read, empty when all is well; complete once all frames were read.
        live: frames come when they come, and one that is not taken in time is lost.
        endless: it never ends by itself.
        state: what a live source is doing while it gives no frames, empty while it gives some.
    """

    duration_s: float = 0.0
    warning: str = ""
    live: bool = False
    endless: bool = False
    state: str = ""

    @abstractmethod
    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Frames whose time in seconds is due; the others are skipped without being converted."""

    def measure(self) -> float:
        """Seconds of video that can be read: `duration_s` where nobody knows better. Costs a look at the end of it."""
        return self.duration_s

    def close(self) -> None:
        """Make `read` end soon, and free what it used; from any thread."""
        return

    def __iter__(self) -> Iterator[Frame]:
        return self.read(lambda time_s: True)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class DecodedSource(Source):
    """A source with a decoder (``cv2.VideoCapture``). The thread that reads frees it: FFmpeg aborts the process when
    another one does so during a call.

    `close` from any other thread only asks for it; `closed` is how `frames` hears of it.
    """

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.capture: Any = None
        self._reader: int | None = None
        self._freeing = threading.Lock()

    @abstractmethod
    def frames(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """What `read` gives; ends when `closed` is set."""

    def read(self, due: Callable[[float], bool]) -> Generator[Frame, None, None]:
        """Due frames, see the class."""
        if self._reader is not None:
            raise RuntimeError("a source is read once: open it again")
        self._reader = threading.get_ident()
        try:
            if not self.closed.is_set():
                yield from self.frames(due)
        finally:
            self.free()

    def close(self) -> None:
        """Make `read` end; frees the decoder at once only where no other thread reads."""
        self.closed.set()
        if self._reader in (None, threading.get_ident()):
            self.free()

    def free(self) -> None:
        """Release the decoder once; by the thread that reads."""
        with self._freeing:
            capture, self.capture = self.capture, None
        if capture is not None:
            capture.release()


class Ticks:
    """Which frames a rate takes: the first of every interval of 1/fps seconds, by timestamp.

    Raises:
        ScoreEdgeError: fps is no such rate.

    Example:
        >>> ticks = Ticks(2)
        >>> [time_s for time_s in (0.0, 0.3, 0.6, 0.9, 1.0) if ticks(time_s)]
        [0.0, 0.6, 1.0]
    """

    def __init__(self, fps: float) -> None:
        if not _SLOWEST <= fps <= _FASTEST:
            raise ScoreEdgeError(
                f"a sampling rate of {fps} frames per second is impossible",
                f"give a number from {_SLOWEST:g} to {_FASTEST:g}",
            )
        self.fps = fps
        self._last = -1

    def __call__(self, time_s: float) -> bool:
        """Whether a frame of this time is due; it is then taken."""
        # A thousandth of an interval of slack: 3 * 0.1 s must fall on the tick of 0.3 s.
        tick = math.floor(time_s * self.fps + 1e-3)
        self._last, late = max(self._last, tick), tick > self._last
        return late

    @property
    def next_s(self) -> float:
        """When the next frame is due: whoever can jump there need not decode what lies between."""
        return (self._last + 1 - 1e-3) / self.fps


def sample(frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
    """Thin frames out to a rate. Irregular sources are sampled evenly in time; a slower one keeps all its frames.

    Args:
        frames: a Source, whose unwanted frames are then never converted, or any other frames in time order.
        fps: frames per second to keep.

    Raises:
        ScoreEdgeError: see `Ticks`.
    """
    due = Ticks(fps)
    return frames.read(due) if isinstance(frames, Source) else (frame for frame in frames if due(frame.time_s))


def stop_reading(frames: Iterator[Frame]) -> None:
    """End a reading that was broken off, in the thread that did it: so the decoder is freed there and then."""
    if isinstance(frames, Generator):
        with closing(frames):
            return
