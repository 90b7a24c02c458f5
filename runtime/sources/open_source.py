"""Opening a source by its address, and reading a whole clip of one."""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError, did_you_mean
from score_edge.runtime.sources.address import SCHEMES, Address
from score_edge.runtime.sources.ahead import read_ahead
from score_edge.runtime.sources.base import Source, Ticks, sample, stop_reading

_LOG: Final = logging.getLogger(__name__)
_LONGER: Final = 1.05
"""Containers round."""
_PATIENCE_S: Final = 5.0
"""How much longer than it takes a live clip may last before it ends with what came."""


def open_source(uri: str | Path | Address) -> Source:
    """Open whatever gives frames.

    Args:
        uri: a path to a video, an image or a folder of images, or ``file:///path``; a camera, ``v4l2:///dev/video0`` or
            ``csi://0``; a stream, ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``; ``synthetic://``, the
            reference world without end; ``-``, raw frames on standard input. Options follow a question mark:
            ``-?size=640x480&fps=10``, ``csi://0?width=1280&height=720``, ``synthetic://?seed=7``,
            ``rtsp://camera/live?transport=udp``.

    Returns:
        A context manager to iterate over once; frames are (H, W, 3) uint8 RGB.

    Raises:
        ScoreEdgeError: there is nothing readable at that place; the message says what is there instead.

    Example:
        >>> with open_source("clip.mp4") as source:  # doctest: +SKIP
        ...     frames = list(sample(source, fps=2))
    """
    address = Address(uri)
    path = address.path
    if path is not None:
        from score_edge.runtime.sources.files import open_path

        return open_path(path)
    if address.scheme not in _SCHEMES:
        hint = did_you_mean(address.scheme, sorted(SCHEMES))
        raise ScoreEdgeError(f"{address.scheme}:// is not a source this version can open", f"{hint}; or a path, or -")
    return _SCHEMES[address.scheme](address)


def sample_clip(
    uri: str | Path | Address,
    fps: float,
    max_frames: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Frame]:
    """A clip at a rate, or, where that gives too many frames, max_frames spread evenly over all of it.

    Frames come as they are decoded, in another thread and a few ahead; the source is opened on the first. A clip of a
    source without an end is what it gives in its next max_frames / fps seconds. What could not be read goes to the log
    as a warning.

    Args:
        uri: as for open_source.
        fps: frames per second to keep.
        max_frames: upper bound on the number of frames.
        on_progress: called with the share of the clip that was read, 0..1.

    Raises:
        ScoreEdgeError: as open_source and sample; max_frames is not positive.
    """
    if max_frames < 1:
        raise ScoreEdgeError(f"at most {max_frames} frames leave nothing to look at", "give a positive number")
    Ticks(fps)  # refuses an impossible rate here
    return read_ahead(_clip(Address(uri), fps, max_frames, on_progress))


def _clip(address: Address, fps: float, max_frames: int, on_progress: Callable[[float], None]) -> Iterator[Frame]:
    with open_source(address) as source:
        if source.endless:
            yield from beginning(source, address, fps, max_frames, on_progress)
        else:
            yield from _whole(source, address, fps, max_frames, on_progress)
    if source.warning:
        _LOG.warning("%s", source.warning)


def _whole(
    source: Source, address: Address, fps: float, max_frames: int, on_progress: Callable[[float], None]
) -> Iterator[Frame]:
    """A clip with an end, spread over all of it."""
    seconds = source.duration_s
    if not seconds or seconds * fps > max_frames:
        seconds = source.measure()
    rate = min(fps, max_frames / seconds) if seconds > 0 else fps
    # Reads on to the end: only then does the source know what could not be read.
    left = max_frames  # enumerate would hold a frame until the next one is decoded, as a variable does
    for frame in sample(source, rate):
        on_progress(min(1.0, frame.time_s / seconds if seconds > 0 else 0.0))
        left -= 1
        if left >= 0:
            yield frame
        del frame
    if left < 0 and source.duration_s > _LONGER * seconds + 1:
        text = "%s goes on behind the %.1f s that its container tells of; no more was looked at: convert it with ffmpeg"
        _LOG.warning(text, address.name, seconds)


def beginning(
    source: Source,
    address: Address,
    fps: float,
    max_frames: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Frame]:
    """What a source without an end gives in the time that max_frames take, which the log says.

    Args:
        source: opened from `address`; a live one is closed when nothing comes for longer than that.
        address, fps, max_frames, on_progress: as for `sample_clip`.
    """
    seconds = max_frames / fps
    said = f"{address} has no end: the clip is its next {seconds:.3g} s"
    if source.live:
        _LOG.warning("%s", said)
    # A camera whose signal is lost gives no frame whose time could be looked at.
    patience = threading.Timer(seconds + _PATIENCE_S, source.close)
    patience.daemon = True
    if source.live:
        patience.start()
    frames = sample(source, fps)
    try:
        for number, frame in enumerate(frames, 1):
            on_progress(min(1.0, number / max_frames))
            time_s = frame.time_s
            yield frame
            del frame  # or it would be held until the next one is decoded
            if number == max_frames or time_s >= seconds:
                if not source.live:
                    _LOG.warning("%s", said)
                return
    finally:
        patience.cancel()
        stop_reading(frames)


def _open_camera(address: Address) -> Source:
    from score_edge.runtime.sources.camera import open_camera

    return open_camera(address)


def _open_network(address: Address) -> Source:
    from score_edge.runtime.sources.network import open_network

    return open_network(address)


def _open_synthetic(address: Address) -> Source:
    from score_edge.runtime.sources.synthetic import Synthetic

    return Synthetic(address)


def _open_raw_frames(address: Address) -> Source:
    from score_edge.runtime.sources.raw_frames import RawFrames

    return RawFrames(address)


_SCHEMES: Final[dict[str, Callable[[Address], Source]]] = {
    **dict.fromkeys(("v4l2", "csi"), _open_camera),
    **dict.fromkeys(("rtsp", "rtsps", "http", "https"), _open_network),
    "synthetic": _open_synthetic,
    "-": _open_raw_frames,
}
