"""Raw frames on standard input: whatever can decode a video can feed score-edge through a pipe."""

import re
import select
from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import BinaryIO, Final

import numpy as np

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.opencv import refuse_huge

_SLOWEST_FPS: Final = 1e-3
_POLL_S: Final = 0.2


class RawFrames(Source):
    """Frames one after the other without anything between them.

    Args:
        uri: ``-?size=WIDTHxHEIGHT``, and if wanted ``&fps=`` (30), which gives frames their time, and ``&pixels=``
            (``rgb24`` or ``bgr24``).
        stream: where the bytes come from; None takes standard input.

    Raises:
        ScoreEdgeError: size or rate are missing or impossible; standard input is closed.

    Example:
        ``ffmpeg -i in.mkv -f rawvideo -pix_fmt rgb24 - | score-edge stream reference --source '-?size=640x480&fps=25'``
    """

    endless = True  # as far as anybody knows

    def __init__(self, uri: str | Address, stream: BinaryIO | RawIOBase | None = None) -> None:
        address = Address(uri)
        options = address.options({"size": "", "fps": "30", "pixels": "rgb24"})
        size = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", options["size"])
        width, height = (int(side) for side in size.groups()) if size else (0, 0)
        if not width * height:
            raise ScoreEdgeError(
                f"{address}: raw frames need a size", "for example '-?size=640x480&fps=25'; `ask` takes it behind --"
            )
        refuse_huge(address, width, height)
        try:
            self._fps = float(options["fps"])
        except ValueError:
            self._fps = 0.0
        if not _SLOWEST_FPS <= self._fps <= 1000:
            raise ScoreEdgeError(f"{address}: option fps must be a number above 0, not {options['fps'][:40]!r}")
        if options["pixels"] not in ("rgb24", "bgr24"):
            raise ScoreEdgeError(f"{address}: pixels {options['pixels'][:40]!r} are not understood", "rgb24 or bgr24")
        self._shape = height, width, 3
        self._reversed = options["pixels"] == "bgr24"
        self._waits = stream is None
        try:
            # Unbuffered: a thread that waits in sys.stdin keeps the process from ending cleanly.
            self._stream = open(0, "rb", buffering=0, closefd=False) if stream is None else stream  # noqa: SIM115
        except OSError as error:
            raise ScoreEdgeError("standard input is closed, no frames can come", "pipe them in") from error
        self._closed = False

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames until the pipe ends; a last frame cut short is not given, and warned about.

        Raises:
            ScoreEdgeError: not one whole frame came.
        """
        size, index = int(np.prod(self._shape)), 0
        while not self._closed:
            data = bytearray(size)
            filled = self._fill(memoryview(data))
            if filled < size:
                if not index and not self._closed:
                    raise ScoreEdgeError(
                        f"no frame came on standard input: it ended after {filled} of the {size} bytes of one",
                        "did the program in front of the pipe fail, or is the size another?",
                    )
                if filled and not self._closed:
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
        """Make `read` end, also where it waits for the pipe."""
        self._closed = True

    def _fill(self, frame: memoryview) -> int:
        """Read into a frame until it is full, the pipe ends, or it is closed; a pipe gives what it has."""
        filled = 0
        while filled < len(frame) and not self._closed:
            if self._waits and not select.select([self._stream], [], [], _POLL_S)[0]:
                continue
            count = self._stream.readinto(frame[filled:])  # type: ignore[union-attr]
            if not count:
                break
            filled += count
        return filled
