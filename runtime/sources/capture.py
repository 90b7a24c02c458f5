"""A thread that reads a source and keeps the newest step at hand: what is not taken in time is dropped and counted."""

import threading
import time
from dataclasses import dataclass

from score_edge.core import Frame
from score_edge.runtime.sources.background import start_reader
from score_edge.runtime.sources.base import Source, sample, stop_reading


@dataclass(frozen=True, slots=True)
class Captured:
    """The frames of one encoder step.

    Attributes:
        frames: as many as the encoder merges into a step, fewer at the very end.
        gap: the source was interrupted before it.
        arrived: ``time.monotonic()`` of the newest frame.
    """

    frames: list[Frame]
    gap: bool
    arrived: float

    @property
    def time_s(self) -> float:
        """Seconds from the start of the source to the middle of the step."""
        return (self.frames[0].time_s + self.frames[-1].time_s) / 2


class Capture:
    """A queue of one step. A live source overwrites what was not taken; any other source waits.

    Args:
        source: opened; closed by `stop`.
        fps: frames per second to take from it, by timestamps.
        frames_per_step: frames the encoder merges into a step.
        changed: what tells that there is something to take; for one who waits for several captures.

    Attributes:
        frames: taken from the source so far.
        dropped: of these, lost because nobody took them in time.
    """

    def __init__(
        self, source: Source, fps: float, frames_per_step: int, changed: threading.Condition | None = None
    ) -> None:
        self.source = source
        self.frames = self.dropped = 0
        self._sampled = sample(source, fps)  # refuses an impossible rate here and not in the thread
        self._per_step = frames_per_step
        self._slot: Captured | None = None
        self._since = 0.0
        self._error: BaseException | None = None
        self._ended = self._stopping = False
        self._changed = changed or threading.Condition()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        start_reader(self._thread, lambda: self.stop(0))

    def take(self, timeout_s: float) -> Captured | None:
        """The newest step, or None when there is none in time.

        Raises:
            ScoreEdgeError: the source failed for good.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._ended, timeout_s)
            taken, self._slot = self._slot, None
            self._changed.notify_all()
            if taken is None and self._error is not None:
                raise self._error
            return taken

    @property
    def due(self) -> float | None:
        """Since when there has been something to take; 0 at the end of the source, None when `take` would wait.

        By ``time.monotonic()``. A step that takes the place of another has waited as long as that one.
        """
        return self._since if self._slot else 0.0 if self._ended else None

    @property
    def ended(self) -> bool:
        """No step will come any more, and the last one was taken."""
        with self._changed:
            return self._ended and self._slot is None and self._error is None

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the reading; the thread frees the decoder. One that waits for the network is left behind to time out."""
        self._stopping = True
        self.source.close()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        group: list[Frame] = []
        gap = False
        try:
            for frame in self._sampled:
                self.frames += 1
                if frame.gap:  # a step must not span an interruption
                    self.dropped += len(group)
                    group, gap = [], True
                group.append(frame)
                if len(group) == self._per_step:
                    self._put(Captured(group, gap, time.monotonic()))
                    group, gap = [], False
                if self._stopping:
                    return
            if group:
                self._put(Captured(group, gap, time.monotonic()))
        except BaseException as error:
            self._error = error
        finally:
            stop_reading(self._sampled)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, captured: Captured) -> None:
        with self._changed:
            if not self.source.live:
                self._changed.wait_for(lambda: self._slot is None or self._stopping)
            if self._slot is None:
                self._since = captured.arrived
            else:
                self.dropped += len(self._slot.frames)
                captured = Captured(captured.frames, captured.gap or self._slot.gap, captured.arrived)
            self._slot = captured
            self._changed.notify_all()
