"""A camera of a server: it need not be there at the start, comes back whenever it can, and can be paused."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError, error_text
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.background import Background
from score_edge.runtime.sources.base import Source, stop_reading
from score_edge.runtime.sources.open_source import open_source

CONNECTING: Final = "connecting"
ENDED: Final = "the source has ended"
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_COME_AND_GO: Final = frozenset({"rtsp", "rtsps", "http", "https", "v4l2", "csi"})


class LastingSource(Source):
    """A source that is opened in the thread that reads it, and again when it fails, with back-off, until `close`.

    What is no camera (a file, ``synthetic://``) plays at its own speed and ends; what is paused is closed meanwhile.

    Args:
        address: of the source.

    Raises:
        ScoreEdgeError: it is none that can be watched, or a file that is not there.
    """

    live = endless = True

    def __init__(self, address: Address) -> None:
        if address.scheme == "-":
            raise ScoreEdgeError("a server does not read frames from standard input", "give a camera or a file")
        self._address = address
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._paused = False
        self._said = CONNECTING
        self._inner = None if address.scheme in _COME_AND_GO else open_source(address)

    @property
    def state(self) -> str:  # type: ignore[override]
        """What it is doing while it gives no frames."""
        inner = self._inner
        return "paused" if self._paused else self._said or (inner.state if inner else "")

    def pause(self, paused: bool) -> None:
        """Let the source go, or open it again; from any thread."""
        with self._changed:
            self._paused, inner = paused, self._inner
            self._changed.notify_all()
        if paused and inner is not None:
            inner.close()

    def close(self) -> None:
        """Make `read` end; from any thread."""
        self._closed.set()
        with self._changed:
            inner = self._inner
            self._changed.notify_all()
        if inner is not None:
            inner.close()

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames, at times from the start of the reading."""
        began, wait_s, gap = time.monotonic(), _FIRST_WAIT_S, False
        while not self._closed.is_set():
            if self._paused:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed.is_set() or not self._paused)
                self._said, wait_s, gap = CONNECTING, _FIRST_WAIT_S, True
                continue
            ended = ""
            try:
                source = self._opened()
                if source is None:
                    return
                for frame in self._paced(source, began, due):
                    yield Frame(frame.image, frame.time_s, frame.index, frame.gap or gap)
                    self._said, wait_s, gap = "", _FIRST_WAIT_S, False
                    del frame
                if not source.live:
                    ended = ENDED
            except Exception as error:
                self._said = error_text(error)
            finally:
                self._leave()
            if self._paused or self._closed.is_set():
                continue
            self._said = ended or self._said or f"no signal from {self._address}"
            self._wait(None if ended else wait_s)
            wait_s, gap = min(2 * wait_s, _LONGEST_WAIT_S), True

    def _opened(self) -> Source | None:
        """The source, or None when this one was closed meanwhile."""
        if self._inner is None:
            source = Background(lambda: open_source(self._address), Source.close).wait(self._closed)
            with self._changed:
                self._inner = source
            if source is not None and (self._paused or self._closed.is_set()):
                source.close()
        return self._inner

    def _leave(self) -> None:
        with self._changed:
            inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()

    def _paced(self, source: Source, began: float, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Frames at their times, counted from `began`; of what is no camera each when it is due."""
        offset = time.monotonic() - began
        frames = source.read(lambda time_s: due(offset + time_s))
        try:
            for frame in frames:
                time_s = offset + frame.time_s
                if not source.live and self._wait(began + time_s - time.monotonic()):
                    return
                yield Frame(frame.image, time_s, frame.index, frame.gap)
                del frame
        finally:
            stop_reading(frames)

    def _wait(self, seconds: float | None) -> bool:
        """Until it is closed, paused or resumed, or some time has passed; whether it is closed or paused now."""
        paused = self._paused
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed.is_set() or self._paused != paused, None if seconds is None else max(0.0, seconds)
            )
        return self._paused or self._closed.is_set()
