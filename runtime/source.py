"""Where frames come from: the interface of a source, how one is opened by URI, and how its frames are sampled."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError, did_you_mean

_LOG: Final = logging.getLogger(__name__)


class Source(ABC):
    """An iterable of frames that is read once, in constant memory, and closed by ``with``.

    Attributes:
        duration_s: seconds of video; what the container promises (0 when it does not), and once all frames were
            read what was really there.
        warning: one line on what could not be read, empty when all is well; complete once all frames were read.
        live: frames come when they come, and one that is not taken in time is lost.
        state: what a live source is doing while it gives no frames, empty while it gives some.
    """

    duration_s: float = 0.0
    warning: str = ""
    live: bool = False
    state: str = ""

    @abstractmethod
    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Frames whose time in seconds is due; the others are passed over without being converted."""

    def close(self) -> None:
        """Free the decoder; called from another thread, make `read` end soon."""
        return

    def __iter__(self) -> Iterator[Frame]:
        return self.read(lambda time_s: True)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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
        >>> with open_source("clip.mp4") as source:
        ...     frames = list(sample(source, fps=2))
    """
    text = str(uri)
    if text == "-" or text.startswith("-?"):
        from score_edge.runtime.raw_frames import RawFrames

        return RawFrames(text)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return _open_path(text)
    if scheme.lower() not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise ScoreEdgeError(f"{scheme}:// is not a source this version can open", f"give a path, - or one of: {known}")
    return _SCHEMES[scheme.lower()](text)


def uri_options(uri: str, known: dict[str, str]) -> dict[str, str]:
    """The options behind a URI's question mark, filled up with defaults.

    Raises:
        ScoreEdgeError: an option that is not known, or one without a value.

    Example:
        >>> uri_options("csi://0?width=640", {"width": "1280", "height": "720"})
        {'width': '640', 'height': '720'}
    """
    given = dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))
    for name, value in given.items():
        if name not in known:
            raise ScoreEdgeError(f"{uri}: {name!r} is not an option of this source", did_you_mean(name, known))
        if not value:
            raise ScoreEdgeError(f"{uri}: option {name} has no value", f"for example {name}={known[name] or 1}")
    return {**known, **given}


def whole_number(uri: str, name: str, text: str) -> int:
    """An option's value as a number from 0 up. Raises ScoreEdgeError when it is none."""
    if not text.isdecimal():
        raise ScoreEdgeError(f"{uri}: option {name} must be a whole number, not {text!r}")
    return int(text)


def sample(frames: Iterable[Frame], fps: float) -> Iterator[Frame]:
    """Thin frames out to a rate: the first frame of every interval of 1/fps seconds, by timestamp.

    Irregular sources are sampled evenly in time. A source slower than fps keeps all its frames.

    Args:
        frames: a Source, whose unwanted frames are then never converted, or any other frames in time order.
        fps: frames per second to keep.

    Raises:
        ScoreEdgeError: fps is not a positive number.
    """
    if not 0 < fps < math.inf:
        raise ScoreEdgeError(f"a sampling rate of {fps} frames per second is impossible", "give a positive number")
    last = -1

    def due(time_s: float) -> bool:
        nonlocal last
        # A thousandth of an interval of slack: 3 * 0.1 s must fall on the tick of 0.3 s.
        tick = math.floor(time_s * fps + 1e-3)
        last, late = max(last, tick), tick > last
        return late

    return frames.read(due) if isinstance(frames, Source) else (frame for frame in frames if due(frame.time_s))


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
    from score_edge.runtime.files import open_path

    return open_path(Path(uri.removeprefix("file://")))


def _open_camera(uri: str) -> Source:
    from score_edge.runtime.camera import open_camera

    return open_camera(uri)


def _open_synthetic(uri: str) -> Source:
    from score_edge.runtime.synthetic import Synthetic

    return Synthetic(uri)


_SCHEMES: Final[dict[str, Callable[[str], Source]]] = {
    "file": _open_path,
    **dict.fromkeys(("v4l2", "csi", "rtsp", "rtsps", "http", "https"), _open_camera),
    "synthetic": _open_synthetic,
}
