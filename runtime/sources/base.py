"""What gives frames, how they are sampled by time, and the options of a URI."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import parse_qsl, urlsplit

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError, did_you_mean


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
