"""Video files, decoded by OpenCV; what is wrong with them is said in the user's words."""

import codecs
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.native_path import native_path, printable
from score_edge.runtime.sources.base import DecodedSource, Ticks
from score_edge.runtime.sources.opencv import quiet_cv2, refuse_huge, rgb
from score_edge.runtime.sources.video_header import read_video_header, shown_seconds, transfer

VIDEO_SUFFIXES: Final = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".ts", ".webm"})
"""Of the files that are taken for videos where a folder is searched for them; one that is named may have any."""
_NOMINAL_FPS: Final = 30.0
"""Taken when a container states no frame rate, or an absurd one."""
_FAILED_IN_A_ROW: Final = 30
"""A bad packet looks like the end; only so many of them are the end."""
_FAR_S: Final = 1.0
"""From one wanted frame to the next, from which on jumping may be faster than decoding what lies between."""


class VideoFile(DecodedSource):
    """A video in any container FFmpeg reads, upright: the rotation a phone writes into the file is applied.

    Args:
        name: what messages call it.
        connect: opens a capture of OpenCV.
        note: what is known to be wrong with it.
        shown_s: seconds that its container shows of it; infinite where it does not say.

    Raises:
        ScoreEdgeError: not one frame can be decoded.
    """

    def __init__(self, name: str, connect: Callable[[], Any], note: str = "", shown_s: float = math.inf) -> None:
        super().__init__()
        self._name, self._connect, self._note = name, connect, note
        self.warning = note
        self.capture = connect()
        try:
            self._check()
        except BaseException:
            self.free()
            raise
        cv2 = quiet_cv2()
        fps = float(self.capture.get(cv2.CAP_PROP_FPS))
        credible = 0 < fps <= 1000
        self._interval = 1 / (fps if credible else _NOMINAL_FPS)
        self._promised = max(0, int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))) if credible else 0
        if shown_s < self._promised * self._interval:
            self._promised = round(shown_s / self._interval)
        self.duration_s = self._promised * self._interval

    def _check(self) -> None:
        cv2 = quiet_cv2()
        self.capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        opened = self.capture.isOpened()
        if opened:
            sides = (int(self.capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
            refuse_huge(self._name, *sides)
        if not opened or not self._grab():
            codec = int(self.capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True) if opened else b""
            if codec.upper() == b"AV01":
                raise ScoreEdgeError(
                    f"{self._name} is AV1 video, and the installed OpenCV has no decoder for AV1",
                    "convert it, for example: ffmpeg -i IN -c:v libx264 OUT.mp4; or install an OpenCV with dav1d",
                )
            raise ScoreEdgeError(
                f"{self._name} holds no frame that can be decoded",
                "it is damaged, cut off before its index, or not a video: copy it again, or convert it with ffmpeg",
            )

    def frames(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """All due frames. Times start at 0 and grow strictly, whatever the container says.

        Where the next due time is known and far, what lies between is jumped over, for as long as that is faster.
        """
        first = self._stamp(0.0) or 0.0
        time_s, index, lost = 0.0, 0, 0
        jump = _Jumps(due if isinstance(due, Ticks) and self._promised else None)
        failed: int | None = 0
        while not self.closed.is_set():
            if due(time_s):
                decoded, image = self.capture.retrieve()
                if decoded and image is not None and image.size:
                    yield Frame(rgb(image), time_s, index)
                    image = None  # the caller's alone from here on
                else:
                    lost += 1
            began = time.monotonic()
            target_s = jump.target(time_s)
            if target_s is not None:
                cv2 = quiet_cv2()
                self.capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * (target_s - 2 * self._interval))
            failed = self._failures()
            if failed is None:
                break
            lost += failed
            stamp = self._stamp(first)
            if target_s is not None:
                while stamp is not None and stamp <= time_s and self.capture.grab():  # it landed too early
                    stamp = self._stamp(first)
            before_s, time_s = time_s, self._later(time_s, stamp)
            index = index + 1 if target_s is None else max(index + 1, round(time_s / self._interval))
            jump.took(time.monotonic() - began, time_s - before_s, target_s, exact=stamp == time_s)
        if failed is None:  # and not closed before the end
            self._finish(index + 1, time_s + self._interval, lost, jump.jumped)

    def measure(self) -> float:
        """Seconds of video that are really there: what the container promises where its end can be reached.

        Before `read`; opens the file anew, one decoder at a time, because each holds many frames.
        """
        seconds = self.duration_s if self._end_is_there() else self._seconds_read()
        self._reopen()
        return seconds

    def _end_is_there(self) -> bool:
        cv2 = quiet_cv2()
        if self._promised < 2:
            return False
        self.capture.set(cv2.CAP_PROP_POS_FRAMES, self._promised - 1)
        if not self.capture.grab():
            return False
        reached = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        more = all(self.capture.grab() for _ in range(int(1 / self._interval) + 2))
        return bool(reached > 0.95 * self.duration_s - 1 and not more)

    def _seconds_read(self) -> float:
        self._reopen()
        first, time_s = self._stamp(0.0) or 0.0, 0.0
        while self._grab():
            time_s = self._later(time_s, self._stamp(first))
        return time_s + self._interval

    def _reopen(self) -> None:
        self.free()
        self.capture = self._connect()
        self._check()

    def _grab(self) -> bool:
        return self._failures() is not None

    def _failures(self) -> int | None:
        """How many packets failed before the next frame that decodes; None at the end."""
        for failed in range(_FAILED_IN_A_ROW):
            if self.closed.is_set():
                return None
            if self.capture.grab():
                return failed
        return None

    def _stamp(self, first: float) -> float | None:
        """Seconds since the first frame, where the container says them."""
        stamp = float(self.capture.get(quiet_cv2().CAP_PROP_POS_MSEC)) / 1000 - first
        return stamp if math.isfinite(stamp) else None

    def _later(self, time_s: float, stamp: float | None) -> float:
        """The time of a frame behind one of `time_s`: its stamp; where that is missing or goes back, a frame later."""
        return stamp if stamp is not None and time_s < stamp else time_s + self._interval

    def _finish(self, frames: int, seconds: float, lost: int, jumped: bool) -> None:
        if self.closed.is_set():
            return
        # Containers round and VFR ones estimate, so a frame or two too few is not worth a word.
        short = seconds + 2 * self._interval < self.duration_s
        damage = ""
        if jumped and short:
            damage = f"{seconds:.1f} of {self.duration_s:.1f} s could be read"
        elif not jumped and (lost or (frames < self._promised and short)):
            lost = max(lost, self._promised - frames)
            promised_s = max(self.duration_s, seconds)
            damage = f"{frames} of {frames + lost} frames, {seconds:.1f} of {promised_s:.1f} s could be read"
        if damage:
            damage = f"{self._name} is cut off or damaged: {damage}"
        self.warning = "; ".join(filter(None, (damage, self._note)))
        self.duration_s = seconds


class _Jumps:
    """Whether to jump to the next wanted frame: as long as it is faster than decoding on, and lands before it."""

    def __init__(self, ticks: Ticks | None) -> None:
        self._ticks = ticks
        self._decoding = 0.0, 0.0  # seconds of work, seconds of video: of frames that were read one by one
        self.jumped = False

    def target(self, time_s: float) -> float | None:
        """Where to jump from here; None to read on."""
        if self._ticks is None or self._decoding[1] < _FAR_S / 2:
            return None
        far = self._ticks.next_s - time_s
        return self._ticks.next_s if far > _FAR_S else None

    def took(self, work_s: float, video_s: float, target_s: float | None, *, exact: bool) -> None:
        """Account for one move of `video_s`, jumped or not."""
        if target_s is not None:
            self.jumped = True
            rate = self._decoding[0] / self._decoding[1]
            if not exact or work_s > rate * video_s:
                self._ticks = None
        elif not exact:
            self._ticks = None
        else:
            self._decoding = self._decoding[0] + work_s, self._decoding[1] + video_s


def open_video(path: Path) -> VideoFile:
    """Open a video file.

    Raises:
        ScoreEdgeError: it is none, or damaged beyond a single frame.
    """
    head = _refuse_unreadable(path)
    cv2 = quiet_cv2()
    # FFmpeg's backend, lest img_01.png become a sequence.
    place = native_path(path)
    header = read_video_header(path, head)
    hdr = transfer(header)
    note = f"{printable(path.name)} is HDR ({hdr}) and not tone-mapped: its colours are flat and dim" if hdr else ""
    return VideoFile(printable(path), lambda: cv2.VideoCapture(place, cv2.CAP_FFMPEG), note, shown_seconds(header))


def _refuse_unreadable(path: Path) -> bytes:
    """The first bytes; says what is wrong with a file in the user's words before FFmpeg says it in its own."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ScoreEdgeError(f"{printable(path)} cannot be read: {error.strerror}", "check its permissions") from error
    if not head:
        raise ScoreEdgeError(
            f"{printable(path)} is empty (0 bytes)", "the copy or recording failed: get the file again"
        )
    # FFmpeg would render plain text as a terminal recording, and follow a playlist to other places.
    if b"\0" not in head and _is_text(head):
        raise ScoreEdgeError(
            f"{printable(path)} is a text file, not a video", "a failed download or a git-lfs pointer looks like this"
        )
    return head


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # minds no character cut in two at the end
    except UnicodeDecodeError:
        return False
    return True
