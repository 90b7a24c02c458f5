"""Record what a stream sees: every step painted with its kept tokens, answers written into the picture.

An .mp4 can be played once it is closed; an .mkv also when the program was killed or the power went.
"""

import fcntl
import shutil
from pathlib import Path
from typing import IO, Any, Final

from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.native_path import native_path
from score_edge.runtime.live.events import Answered, Event, StepSeen
from score_edge.runtime.overlay import painted_frame, video_size
from score_edge.runtime.sources.opencv import quiet_cv2

_RESERVE: Final = 16 << 20
"""Bytes left free on the disk: recording stops before it harms anything else."""
_ANSWER_STEPS: Final = 8
_SLOWEST: Final = 0.01
"""Frames per second of a file: OpenCV rounds to 0.001, and writes none of 0."""
_STILL_S: Final = 10.0
"""Where steps are missing the last one is shown longer, but no longer than this: a night without signal is no film."""
_SUFFIXES: Final = (".mp4", ".mkv")


class Recorder:
    """A listener that writes a video; close it at the end.

    Args:
        path: of the file; an older one is replaced.
        grid: visual tokens of one step.
        fps: steps per second that are expected; below 0.01 the video plays faster than what it shows.
        camera: whose steps; answers to all cameras are shown too.

    Raises:
        ScoreEdgeError: another suffix, no such folder, no room, a file that is being recorded to; while recording: the
            disk is nearly full. What was recorded up to then can be played.
    """

    def __init__(self, path: str | Path, grid: Grid, fps: float, camera: str = "") -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _SUFFIXES:
            raise ScoreEdgeError(f"{self.path.name} cannot be recorded", "name it .mp4, or .mkv to survive a power cut")
        if not self.path.parent.is_dir():
            raise ScoreEdgeError(f"there is no folder {self.path.parent}", "create it first")
        self._place = native_path(self.path)
        self._grid, self._fps, self._camera = grid, max(fps, _SLOWEST), camera
        self._writer: Any = None
        self._held: IO[bytes] | None = None
        self._size = 0, 0
        self._last: Any = None
        self._time_s = self._behind = 0.0
        self._answer, self._shown = "", 0
        self._check_room()
        if self.path.is_file():
            _hold(self.path).close()

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, Answered) and event.text and event.camera in ("", self._camera):
            self._answer, self._shown = f"{event.question}  {event.text}", _ANSWER_STEPS
        elif isinstance(event, StepSeen) and event.camera == self._camera:
            self._write(event)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._held is not None:
            self._held.close()
            self._held = None

    def _write(self, event: StepSeen) -> None:
        self._check_room()
        cv2 = quiet_cv2()
        if self._writer is None:
            self._held = _hold(self.path)
            self._size = video_size(event.frame.image)
            fourcc, (height, width) = cv2.VideoWriter.fourcc(*"mp4v"), self._size
            self._writer = cv2.VideoWriter(self._place, cv2.CAP_FFMPEG, fourcc, self._fps, (width, height))
            if not self._writer.isOpened():
                self.close()
                if not self.path.stat().st_size:
                    self.path.unlink()
                raise ScoreEdgeError(f"OpenCV cannot write {self.path}", "may you write there?")
        keep, encoded = (mask.reshape(self._grid.height, self._grid.width) for mask in (event.keep, event.encoded))
        self._shown -= 1
        caption = self._answer if self._shown >= 0 else None
        painted = painted_frame(event.frame, keep, *self._size, caption, encoded)
        if self._last is not None and event.frame.time_s >= self._time_s:  # else the source began anew
            self._behind += (event.frame.time_s - self._time_s) * self._fps - 1
            self._behind = min(self._behind, _STILL_S * self._fps)
            for _ in range(round(self._behind)):
                self._writer.write(self._last)
                self._behind -= 1
        self._last, self._time_s = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR), event.frame.time_s
        self._writer.write(self._last)

    def _check_room(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < _RESERVE:
            self.close()
            raise ScoreEdgeError(
                f"recording to {self.path} stopped: {free / 1e6:.0f} MB are left on its disk",
                "make room, or record to another disk",
            )


def _hold(path: Path) -> IO[bytes]:
    """Open a file without changing it; while it is open no other recorder writes it: two would mix their frames.

    Raises:
        ScoreEdgeError: another one writes it, or it cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise ScoreEdgeError(f"{path} cannot be written: {error.strerror}", "choose another place") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ScoreEdgeError(f"{path} is being recorded to by another command", "name another file") from error
    except OSError:
        pass  # a file system without locks
    return file
