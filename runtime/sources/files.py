"""Video files and folders of images, decoded by OpenCV; what is wrong with them is said in the user's words."""

import codecs
import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.sources.base import Source

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGES_PER_SECOND: Final = 1.0
"""A folder says nothing about time: its images count as one second apart."""
_NOMINAL_FPS: Final = 30.0
"""Taken when a container states no frame rate, or an absurd one."""


def open_path(path: Path) -> Source:
    """Open what lies at a path: a video, an image, or a folder of images.

    Raises:
        ScoreEdgeError: nothing there can be read; the message says what is there instead.
    """
    try:
        if path.is_dir():
            images = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
            if not images:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise ScoreEdgeError(f"folder {path} holds no images", f"give a video file, or a folder of {kinds}")
            return ImageFolder(images)
        if path.is_file():
            return ImageFolder([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)
        if path.exists():
            raise ScoreEdgeError(f"{path} is neither a file nor a folder", "give a video file or a folder of images")
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise ScoreEdgeError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    close = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f"did you mean {path.parent / close[0]}?" if close else "check the path"
    raise ScoreEdgeError(f"{path} does not exist", hint)


class VideoFile(Source):
    """A video in any container FFmpeg reads, upright: the rotation a phone writes into the file is applied."""

    def __init__(self, path: Path) -> None:
        _refuse_unreadable(path)
        cv2 = quiet_cv2()
        self._name = path.name
        # An absolute path, lest FFmpeg take "a:b.mp4" for a protocol; its backend, lest img_01.png become a sequence.
        self._capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        if not self._capture.isOpened() or not self._capture.grab():
            self.close()
            raise ScoreEdgeError(
                f"{path} holds no frame that can be decoded",
                "it is damaged, cut off before its index, or not a video: copy it again, or convert it with ffmpeg",
            )
        self._started = False
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._interval = 1 / (fps if 0 < fps <= 1000 else _NOMINAL_FPS)
        self._promised = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.duration_s = self._promised * self._interval

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """All due frames. Times start at 0 and grow strictly, whatever the container says."""
        if self._started:
            raise RuntimeError("a source is read once: open it again")
        self._started = True
        cv2 = quiet_cv2()
        first = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        first = first if math.isfinite(first) else 0.0
        time_s, index, grabbed = 0.0, 0, True
        while grabbed:
            if due(time_s):
                decoded, image = self._capture.retrieve()
                if decoded:
                    yield Frame(rgb(image), time_s, index)
            grabbed = self._capture.grab()
            if grabbed:
                stamp = (float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) - first) / 1000
                # Missing and reordered stamps fall back to the frame rate, one frame at a time.
                time_s = stamp if time_s < stamp < math.inf else time_s + self._interval
                index += 1
        self._finish(index + 1, time_s + self._interval)

    def _finish(self, frames: int, seconds: float) -> None:
        # Containers round and VFR ones estimate, so a frame or two too few is not worth a word.
        if frames < self._promised and seconds + 2 * self._interval < self.duration_s:
            self.warning = (
                f"{self._name} is cut off or damaged: "
                f"{frames} of {self._promised} frames, {seconds:.1f} of {self.duration_s:.1f} s could be read"
            )
        self.duration_s = seconds

    def close(self) -> None:
        """Free the decoder."""
        self._capture.release()


class ImageFolder(Source):
    """Images in natural order of their names (2 before 10), sizes may differ; those that cannot be read are skipped."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = sorted(paths, key=_natural)
        self.duration_s = len(paths) / IMAGES_PER_SECOND

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """All due images. Raises ScoreEdgeError at the end if not one of them could be read."""
        broken: list[str] = []
        good = 0
        for index, path in enumerate(self._paths):
            time_s = index / IMAGES_PER_SECOND
            if not due(time_s):
                continue
            image = _decode(path)
            if image is None:
                broken.append(path.name)
                self.warning = f"{len(broken)} of {len(self._paths)} images could not be read, the first is {broken[0]}"
            else:
                good += 1
                yield Frame(image, time_s, index)
        if broken and not good:
            raise ScoreEdgeError(f"{self._paths[0]} cannot be read as an image", "is it damaged, or not an image?")


def _refuse_unreadable(path: Path) -> None:
    """Say what is wrong with a file in the user's words before FFmpeg says it in its own."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ScoreEdgeError(f"{path} cannot be read: {error.strerror}", "check its permissions") from error
    if not head:
        raise ScoreEdgeError(f"{path} is empty (0 bytes)", "the copy or recording failed: get the file again")
    # FFmpeg would render plain text as a terminal recording, and follow a playlist to other places.
    if b"\0" not in head and _is_text(head):
        raise ScoreEdgeError(
            f"{path} is a text file, not a video", "a failed download or a git-lfs pointer looks like this"
        )


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # minds no character cut in two at the end
    except UnicodeDecodeError:
        return False
    return True


def quiet_cv2() -> ModuleType:
    """OpenCV, told to leave it to us to say what went wrong."""
    # FFmpeg's level is read when the process opens its first capture.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require("cv2")

    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
    set_level(0)
    return cv2


def rgb(image: Uint8) -> Uint8:
    """OpenCV's channel order turned into ours."""
    cv2 = require("cv2")

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _decode(path: Path) -> Uint8 | None:
    cv2 = quiet_cv2()
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):
        return None
    return None if image is None else rgb(image)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path.name)]
