"""Opening a source by URI, and reading a whole clip of one."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.base import Source, sample

_LOG: Final = logging.getLogger(__name__)


def open_source(uri: str | Path) -> Source:
    """Open whatever gives frames.

    Args:
        uri: a path to a video, an image or a folder of images, with or without ``file://``; a camera,
            ``v4l2:///dev/video0`` or ``csi://0``; a stream, ``rtsp://``, ``rtsps://``, ``http://`` or ``https://``;
            ``synthetic://``, the reference world without end; ``-``, raw frames on standard input. Options follow a
            question mark: ``-?size=640x480&fps=10``, ``csi://0?width=1280&height=720``, ``synthetic://?seed=7``.

    Returns:
        A context manager to iterate over once; frames are (H, W, 3) uint8 RGB.

    Raises:
        ScoreEdgeError: there is nothing readable at that place; the message says what is there instead.

    Example:
        >>> with open_source("clip.mp4") as source:  # doctest: +SKIP
        ...     frames = list(sample(source, fps=2))
    """
    text = str(uri)
    if text == "-" or text.startswith("-?"):
        from score_edge.runtime.sources.raw_frames import RawFrames

        return RawFrames(text)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return _open_path(text)
    if scheme.lower() not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ScoreEdgeError(f"{scheme}:// is not a source this version can open", f"give a path, - or one of: {known}")
    return _SCHEMES[scheme.lower()](text)


def sample_clip(uri: str | Path, fps: float, max_frames: int) -> list[Frame]:
    """Read a whole clip at a rate, or, where that gives too many frames, max_frames spread evenly over all of it.

    One pass, holding only what is returned; a second one when the container was wrong about the length. What could not
    be read goes to the log as a warning.

    Args:
        uri: as for open_source.
        fps: frames per second to keep.
        max_frames: upper bound on the number of frames.

    Raises:
        ScoreEdgeError: as open_source and sample; max_frames is not positive.
    """
    if max_frames < 1:
        raise ScoreEdgeError(f"at most {max_frames} frames leave nothing to look at", "give a positive number")

    with open_source(uri) as source:
        rate = _even_rate(source.duration_s, fps, max_frames)
        frames = _first(sample(source, rate), max_frames)
    if source.warning:
        _LOG.warning("%s", source.warning)
    true_rate = _even_rate(source.duration_s, fps, max_frames)
    if abs(true_rate / rate - 1) * max_frames > 1:
        with open_source(uri) as source:
            frames = _first(sample(source, true_rate), max_frames)
    return frames


def _even_rate(duration_s: float, fps: float, max_frames: int) -> float:
    return min(fps, max_frames / duration_s) if duration_s > 0 else fps


def _first(frames: Iterator[Frame], count: int) -> list[Frame]:
    # Reads on to the end: only then does the source know how long it really is.
    return [frame for n, frame in enumerate(frames) if n < count]


def _open_path(uri: str) -> Source:
    from score_edge.runtime.sources.files import open_path

    return open_path(Path(uri.removeprefix("file://")))


def _open_camera(uri: str) -> Source:
    from score_edge.runtime.sources.camera import open_camera

    return open_camera(uri)


def _open_synthetic(uri: str) -> Source:
    from score_edge.runtime.sources.synthetic import Synthetic

    return Synthetic(uri)


_SCHEMES: Final[dict[str, Callable[[str], Source]]] = {
    "file": _open_path,
    **dict.fromkeys(("v4l2", "csi", "rtsp", "rtsps", "http", "https"), _open_camera),
    "synthetic": _open_synthetic,
}
