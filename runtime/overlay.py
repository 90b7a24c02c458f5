"""Kept tokens painted over the frames they came from: people look before they read."""

import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from score_edge.bundle.atomic import atomic_file
from score_edge.core import Frame, Mask, Uint8
from score_edge.errors import ScoreEdgeError, require
from score_edge.native_path import native_path, printable

_OUTLINE: Final = (255, 64, 129)
_ENCODED: Final = (64, 196, 255)
_PAPER: Final = (18, 20, 24)
_INK: Final = (214, 218, 224)
_SHEET_WIDTH: Final = 1920
_FRAME_WIDTH: Final = 640
_MARGIN: Final = 12
_CAPTION: Final = 26


def thumbnail(frame: Frame, width: int = _FRAME_WIDTH) -> Frame:
    """A frame small enough to be held for a picture: at most `width` x 2 `width`; the same frame where it is already.

    The image is a copy, so that a smaller view never keeps a large picture in memory.
    """
    cv2 = require("cv2")

    rows, columns = frame.image.shape[:2]
    shrink = max(columns / width, rows / (2 * width))
    if shrink <= 1:
        return frame
    size = max(1, round(columns / shrink)), max(1, round(rows / shrink))
    small = np.asarray(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Frame(small, frame.time_s, frame.index, frame.gap)


def paint(image: Uint8, keep: Mask, encoded: Mask | None = None) -> Uint8:
    """Show which tokens are kept: those in full colour inside a bright outline, the others dark and almost grey.

    Args:
        image: (H, W, 3) uint8 RGB.
        keep: (gh, gw) bool, one per visual token; the grid is stretched over the image.
        encoded: (gh, gw) bool, the cells that were encoded: half as dark, in a thin blue outline where not all are.

    Returns:
        (H, W, 3) uint8 RGB, a new image.
    """
    cv2 = require("cv2")

    height, width = image.shape[:2]
    rows, columns = np.arange(height) * keep.shape[0] // height, np.arange(width) * keep.shape[1] // width
    spread = rows[:, None], columns
    kept = keep[spread]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    painted = np.asarray(cv2.addWeighted(grey, 0.30, image, 0.08, 8), np.uint8)
    thickness = max(1, round(min(height, width) / 240))
    if encoded is not None and not encoded.all():
        fresh = encoded[spread]
        painted = np.where(fresh[..., None], np.asarray(cv2.addWeighted(grey, 0.45, image, 0.20, 8), np.uint8), painted)
        painted[_rim(fresh, max(1, thickness // 2))] = _ENCODED
    painted = np.where(kept[..., None], image, painted)
    painted[_rim(kept, thickness)] = _OUTLINE
    return painted


def _rim(area: Mask, thickness: int) -> Mask:
    """The pixels of an area that lie on its edge; on that of the image, too."""
    cv2 = require("cv2")

    inside = np.pad(area.astype(np.uint8), thickness)
    inside = np.asarray(cv2.erode(inside, np.ones((2 * thickness + 1,) * 2, np.uint8)), np.uint8)
    rim: Mask = area & (inside[thickness:-thickness, thickness:-thickness] == 0)
    return rim


def contact_sheet(
    frames: Sequence[Frame],
    keeps: Sequence[Mask],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    encoded: Sequence[Mask] | None = None,
) -> Uint8:
    """All painted frames on one sheet.

    Args:
        frames: at least one; sizes may differ, each is fitted into a cell of the first one's shape.
        keeps: (gh, gw) bool for every frame.
        columns: cells per row; None makes the sheet about as wide as a screen is.
        captions: a line for every frame; None gives its time, and how much is kept and was encoded.
        encoded: (gh, gw) bool for every frame, see `paint`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    columns = min(columns or max(1, math.ceil(math.sqrt(len(frames)))), len(frames))
    cells: Sequence[Mask | None] = encoded or [None] * len(frames)
    captions = captions or [_caption(*each) for each in zip(frames, keeps, cells, strict=True)]
    cell_width = min(_FRAME_WIDTH, (_SHEET_WIDTH - _MARGIN) // columns - _MARGIN)
    cell_height = _height_at(frames[0].image, cell_width)
    rows = math.ceil(len(frames) / columns)
    step_y, step_x = cell_height + _CAPTION + _MARGIN, cell_width + _MARGIN
    sheet = np.full((_MARGIN + rows * step_y, _MARGIN + columns * step_x, 3), _PAPER, np.uint8)
    for place, (frame, keep, fresh, caption) in enumerate(zip(frames, keeps, cells, captions, strict=True)):
        y, x = _MARGIN + place // columns * step_y, _MARGIN + place % columns * step_x
        # Resized before it is painted: outlines stay thin and crisp on thumbnails and on tiny frames.
        sheet[y : y + cell_height, x : x + cell_width] = paint(_fit(frame.image, cell_height, cell_width), keep, fresh)
        _write(sheet, caption, x, y + cell_height + 18)
    return sheet


def video_size(image: Uint8) -> tuple[int, int]:
    """(height, width) of a video of painted frames; encoders want even sides."""
    width = max(_FRAME_WIDTH, image.shape[1]) // 2 * 2
    return _height_at(image, width) // 2 * 2, width


def painted_frame(
    frame: Frame, keep: Mask, height: int, width: int, caption: str | None = None, encoded: Mask | None = None
) -> Uint8:
    """One frame of such a video: (height, width, 3) uint8 RGB, a line of text in it; None says what a sheet says."""
    painted = paint(_fit(frame.image, height, width), keep, encoded)
    _write(painted, _caption(frame, keep, encoded) if caption is None else caption, 10, height - 12)
    return painted


def check_overlay(path: Path) -> None:
    """Refuse a suffix that `write_overlay` would refuse."""
    if path.suffix.lower() not in (".png", ".mp4"):
        raise ScoreEdgeError(
            f"an overlay cannot be written as {path.name!r}", "name it .png (contact sheet) or .mp4 (video)"
        )


def write_overlay(
    path: str | Path,
    frames: Sequence[Frame],
    keeps: Sequence[Mask],
    fps: float = 2.0,
    encoded: Sequence[Mask] | None = None,
) -> None:
    """Write a contact sheet (.png) or a video (.mp4), whole or not at all.

    Args:
        path: its suffix decides.
        frames: at least one.
        keeps: (gh, gw) bool for every frame.
        fps: frames per second of the video.
        encoded: (gh, gw) bool for every frame, see `paint`.

    Raises:
        ScoreEdgeError: another suffix, nothing to show, or the place cannot be written.
    """
    path = Path(path)
    check_overlay(path)
    if not frames:
        raise ScoreEdgeError("there are no frames to paint an overlay on")
    try:
        with atomic_file(path) as unfinished:
            if path.suffix.lower() == ".png":
                _write_png(unfinished, contact_sheet(frames, keeps, encoded=encoded))
            else:
                _write_mp4(unfinished, frames, keeps, fps, encoded or [None] * len(frames))
    except OSError as error:
        raise ScoreEdgeError(
            f"{printable(path)} cannot be written: {error.strerror}", "make room, or choose another place"
        ) from error


def _write_png(path: Path, image: Uint8) -> None:
    cv2 = require("cv2")

    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(encoded.tobytes())


def _write_mp4(
    path: Path, frames: Sequence[Frame], keeps: Sequence[Mask], fps: float, encoded: Sequence[Mask | None]
) -> None:
    cv2 = require("cv2")

    height, width = video_size(frames[0].image)
    writer = cv2.VideoWriter(native_path(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        path.write_bytes(bytes(1 << 16))  # raises what OpenCV does not say: that the disk is full
        raise ScoreEdgeError(f"OpenCV cannot encode a {width}x{height} video at {fps} fps", "write a .png instead")
    try:
        for frame, keep, fresh in zip(frames, keeps, encoded, strict=True):
            painted = painted_frame(frame, keep, height, width, encoded=fresh)
            writer.write(cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
    finally:
        writer.release()
    if _frames_in(path) < len(frames):  # OpenCV says nothing of a disk that filled up
        raise OSError(errno.ENOSPC, "the video came out incomplete; is the disk full?")


def _frames_in(path: Path) -> int:
    cv2 = require("cv2")

    capture = cv2.VideoCapture(native_path(path))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


def _height_at(image: Uint8, width: int) -> int:
    return max(2, round(int(image.shape[0]) * width / int(image.shape[1])))


def _fit(image: Uint8, height: int, width: int) -> Uint8:
    cv2 = require("cv2")

    # Enlarged pixels stay square: what the model saw should not look sharper than it was.
    how = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def _caption(frame: Frame, keep: Mask, encoded: Mask | None) -> str:
    fresh = "" if encoded is None else f", {np.count_nonzero(encoded)} encoded"
    return f"{frame.time_s:.1f} s   {np.count_nonzero(keep)} of {keep.size} tokens{fresh}"


def _write(image: Uint8, text: str, x: int, y: int) -> None:
    cv2 = require("cv2")

    for colour, thickness in ((_PAPER, 3), (_INK, 1)):
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thickness, cv2.LINE_AA)
