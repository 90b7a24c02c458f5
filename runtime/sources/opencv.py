"""OpenCV, told to leave it to us to say what went wrong, and how large a picture may be."""

import ctypes
import functools
import os
import sys
from types import ModuleType
from typing import Final

from score_edge.core import Uint8
from score_edge.errors import ScoreEdgeError, require

MAX_PIXELS: Final = 100_000_000
"""Of one picture: 12000 x 8000 passes; decoded it is 300 MB."""
_BAND: Final = 64
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_GIVEN_BACK: Final = 8 << 20


def quiet_cv2() -> ModuleType:
    """OpenCV without its own words on stderr, which may hold the whole address of a camera."""
    # Both are read when the process opens its first capture. FFmpeg needs none of OpenCV's locks, under which a camera
    # that says nothing for a quarter of a minute would keep every other one from being opened or closed.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_IS_THREAD_SAFE", "1")
    cv2 = require("cv2")
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # OpenCV 4, OpenCV 5
    set_level(0)
    _give_frames_back()
    return cv2


@functools.cache
def _give_frames_back() -> None:
    """Have glibc return large frames to the system. Once it has freed one it would take the next from its heap, where
    the small things between frames keep it from shrinking: 100 MB with 3840 x 2160 pixels.

    Told that, it would also give back the free end of its heap from 128 KB on, and the arrays of every step would be
    new pages from the system: twice the time of a resize. What it does by itself is twice the threshold."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK)
            mallopt(_M_TRIM_THRESHOLD, 2 * _GIVEN_BACK)


def rgb(image: Uint8) -> Uint8:
    """OpenCV's channel order turned into ours, in place, a band at a time: OpenCV would copy the whole picture."""
    cv2 = require("cv2")
    for start in range(0, len(image), _BAND):
        band = image[start : start + _BAND]
        cv2.cvtColor(band, cv2.COLOR_BGR2RGB, dst=band)
    return image


def refuse_huge(name: object, width: int, height: int) -> None:
    """Before anything is decoded. Raises ScoreEdgeError above MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ScoreEdgeError(
            f"{name}: {width} x {height} pixels are more than the {MAX_PIXELS // 10**6} million of a picture here",
            "make it smaller first",
        )
