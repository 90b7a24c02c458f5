"""Raw frames on standard input: whatever can decode a video can feed score-edge through a pipe."""

from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import BinaryIO

import numpy as np

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.base import Source, uri_options


class RawFrames(Source):
    """Frames one after the other without anything between them.

    Args:
        uri: ``-?size=WIDTHxHEIGHT``, and if wanted ``&fps=`` (30), which gives frames their time, and ``&pixels=``
            (``rgb24`` or ``bgr24``).
        stream: where the bytes come from; None takes standard input.

    Raises:
        ScoreEdgeError: size or rate are missing or impossible.

    Example:
        ``ffmpeg -i in.mkv -f rawvideo -pix_fmt rgb24 - | score-edge stream reference --source '-?size=640x480&fps=25'``
    """

    def __init__(self, uri: str, stream: BinaryIO | RawIOBase | None = None) -> None:
        options = uri_options(uri, {"size": "", "fps": "30", "pixels": "rgb24"})
        width, cross, height = options["size"].partition("x")
        if not (cross and width.isdecimal() and height.isdecimal() and int(width) * int(height)):
            raise ScoreEdgeError(f"{uri}: raw frames need a size", "for example '-?size=640x480&fps=25'")
        try:
            self._fps = float(options["fps"])
        except ValueError:
            self._fps = 0.0
        if not 0 < self._fps <= 1000:
            raise ScoreEdgeError(f"{uri}: option fps must be a number above 0, not {options['fps']!r}")
        if options["pixels"] not in ("rgb24", "bgr24"):
            raise ScoreEdgeError(f"{uri}: pixels {options['pixels']!r} are not understood", "rgb24 or bgr24")
        self._shape = int(height), int(width), 3
        self._reversed = options["pixels"] == "bgr24"
        # Unbuffered: a thread that waits in sys.stdin keeps the process from ending cleanly.
        self._stream = open(0, "rb", buffering=0, closefd=False) if stream is None else stream  # noqa: SIM115
        self._closed = False

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames until the pipe ends; a last frame cut short is not given, and warned about."""
        size, index = int(np.prod(self._shape)), 0
        while not self._closed:
            data = bytearray(size)
            filled = self._fill(memoryview(data))
            if filled < size:
                if filled:
                    self.warning = f"the last frame on standard input is cut off: {filled} of {size} bytes"
                break
            if due(index / self._fps):
                image = np.frombuffer(data, np.uint8).reshape(self._shape)
                yield Frame(
                    np.ascontiguousarray(image[..., ::-1]) if self._reversed else image, index / self._fps, index
                )
            index += 1
        self.duration_s = index / self._fps

    def close(self) -> None:
        """Read no further."""
        self._closed = True

    def _fill(self, frame: memoryview) -> int:
        """Read into a frame until it is full or the pipe ends; a pipe gives what it has."""
        filled = 0
        while filled < len(frame) and (count := self._stream.readinto(frame[filled:])):  # type: ignore[union-attr]
            filled += count
        return filled
