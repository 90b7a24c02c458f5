"""Pictures: a folder of them, one, an animation, the pages of a TIFF. Their size is known before they are decoded."""

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.native_path import native_path, printable
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.image_header import Header, read_header
from score_edge.runtime.sources.opencv import quiet_cv2, refuse_huge, rgb

IMAGE_SUFFIXES: Final = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
IMAGES_PER_SECOND: Final = 1.0
"""Neither a folder nor a TIFF says anything about time: its images count as one second apart."""
_AT_ONCE: Final = 32_000_000
"""Pixels of an animation that are decoded together, at least one frame."""


class ImageFolder(Source):
    """Images in natural order of their names (2 before 10), sizes may differ; those that cannot be read are skipped.

    Args:
        paths: of the images.
        passed_over: other files of the folder; the warning names them.
    """

    def __init__(self, paths: list[Path], passed_over: list[Path] | None = None) -> None:
        self._paths = sorted(paths, key=_natural)
        self._passed_over = sorted(passed_over or [], key=_natural)
        self.duration_s = len(paths) / IMAGES_PER_SECOND
        self._closed = False

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """All due images. Raises ScoreEdgeError at the end if not one of them could be read."""
        errors: list[tuple[Path, ScoreEdgeError]] = []
        notes: list[str] = []
        good = 0
        for index, path in enumerate(self._paths):
            time_s = index / IMAGES_PER_SECOND
            if self._closed:
                return
            if not due(time_s):
                continue
            try:
                image, note = read_image(path)
            except ScoreEdgeError as error:
                errors.append((path, error))
            else:
                good += 1
                notes += [note] if note else []
                yield Frame(image, time_s, index)
            self.warning = self._words(errors, notes)
        self.warning = self._words(errors, notes)
        if errors and not good:
            raise errors[0][1]

    def close(self) -> None:
        """Make `read` end."""
        self._closed = True

    def _words(self, errors: list[tuple[Path, ScoreEdgeError]], notes: list[str]) -> str:
        parts = []
        if errors:
            first = printable(errors[0][0].name)
            parts.append(f"{len(errors)} of {len(self._paths)} images could not be read, the first is {first}")
        if self._passed_over:
            first = printable(self._passed_over[0].name)
            parts.append(f"of another kind and skipped: {len(self._passed_over)}, the first is {first}")
        return "; ".join([*parts, *notes[:1]])


class Frames(Source):
    """An animated WebP or a TIFF of several pages, a few frames in memory at a time."""

    def __init__(self, path: Path, header: Header) -> None:
        refuse_huge(printable(path), header.width, header.height)
        self._path, self._header = path, header
        self._times = _webp_times(path.read_bytes()) if header.kind == "webp" else _page_times(header.frames)
        self.duration_s = self._times[-1]
        self._closed = False

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """All due frames, with the durations of an animation, pages one second apart."""
        at_once = max(1, _AT_ONCE // (self._header.width * self._header.height))
        given = 0
        for start in range(0, self._header.frames, at_once):
            wanted = range(start, min(start + at_once, self._header.frames))
            taken = [index for index in wanted if due(self._times[index])]
            if self._closed:
                return
            if not taken:
                continue
            images = self._decode(start, taken[-1] + 1 - start)
            for index in taken:
                if index - start >= len(images):
                    name = printable(self._path.name)
                    self.warning = f"{name} is damaged: {given} of {self._header.frames} frames could be read"
                    break
                given += 1
                yield Frame(_upright(images[index - start]), self._times[index], index)
        if not given:
            raise _unreadable(self._path)

    def close(self) -> None:
        """Make `read` end."""
        self._closed = True

    def _decode(self, start: int, count: int) -> list[Any]:
        cv2 = quiet_cv2()
        place = native_path(self._path)
        try:
            if self._header.kind == "webp":
                return list(cv2.imreadanimation(place, start=start, count=count)[1].frames)
            return list(cv2.imreadmulti(place, start, count, flags=cv2.IMREAD_COLOR)[1])
        except cv2.error:
            return []


def open_image(path: Path) -> Source:
    """One picture, or all frames of an animation or a TIFF where OpenCV reads them; where not, the warning says so.

    Raises:
        ScoreEdgeError: it cannot be read, or has too many pixels.
    """
    header = read_header(_read(path))
    if header and header.frames > 1:
        if header.kind == "tiff" or (header.kind == "webp" and hasattr(quiet_cv2(), "imreadanimation")):
            return Frames(path, header)
        if header.kind == "png":
            from score_edge.runtime.sources.video_file import open_video

            refuse_huge(printable(path), header.width, header.height)
            try:
                return open_video(path)
            except ScoreEdgeError:
                pass  # an OpenCV whose FFmpeg has no PNG animations gives the first picture, and says so
    return ImageFolder([path])


def read_image(path: Path) -> tuple[Uint8, str]:
    """A picture as (H, W, 3) uint8 RGB, and what is worth a word about it.

    Raises:
        ScoreEdgeError: it cannot be read, or has too many pixels.
    """
    cv2 = quiet_cv2()
    data = _read(path)
    header = read_header(data)
    if header:
        refuse_huge(printable(path), header.width, header.height)
    encoded = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if data else None
    except cv2.error:
        image = None
    if image is None:
        raise _unreadable(path)
    note = ""
    if header and header.frames > 1:
        note = f"{printable(path.name)} holds {header.frames} frames, only the first is taken: give the file by itself"
    elif header and header.bits > 8 and not image.max() >> 4:
        note = (
            f"{printable(path.name)} uses only the lowest of its {header.bits} bits and looks black: scale it up first"
        )
    return rgb(image), note


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScoreEdgeError(f"{printable(path)} cannot be read: {error.strerror}", "check its permissions") from error


def _unreadable(path: Path) -> ScoreEdgeError:
    return ScoreEdgeError(f"{printable(path)} cannot be read as an image", "is it damaged, or not an image?")


def _upright(image: Uint8) -> Uint8:
    """(H, W, 3) RGB of what an animation gives: BGR, with or without transparency, which becomes black."""
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return rgb(np.ascontiguousarray(image[..., :3]))


def _webp_times(data: bytes) -> list[float]:
    """When each frame of an animated WebP begins, and behind them its end, in seconds."""
    times, at = [0.0], 12
    while at + 24 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF":
            milliseconds = int.from_bytes(data[at + 8 + 12 : at + 8 + 15], "little")
            times.append(times[-1] + max(milliseconds, 1) / 1000)
        at += 8 + size + size % 2
    return times


def _page_times(pages: int) -> list[float]:
    return [page / IMAGES_PER_SECOND for page in range(pages + 1)]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part) if part.isascii() and part.isdecimal() else -1, part) for part in re.split(r"(\d+)", path.name)]
