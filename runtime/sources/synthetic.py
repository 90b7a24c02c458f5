"""``synthetic://``: the reference world as a camera, for trying things out and for tests that take days."""

import threading
import time
from collections.abc import Callable, Iterator

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.base import Source

_LONGEST = 1000
"""Steps of a scene, which is rendered as a whole: 55 MB."""


class Synthetic(Source):
    """An endless source that is the same every time.

    Args:
        uri: ``synthetic://`` as fast as it is read, or as a camera would with ``?live=1``; further options are
            ``seed`` (3), ``scene`` (16), steps between cuts (1000 at most), and ``steps`` (0 = no end), its length.
    """

    def __init__(self, uri: str | Address) -> None:
        address = Address(uri)
        options = address.options({"seed": "3", "scene": "16", "steps": "0", "live": "0"})
        seed, scene, steps, live = (address.whole_number(name, text) for name, text in options.items())
        if scene > _LONGEST:
            raise ScoreEdgeError(f"{address}: a scene of {scene} steps is too long", f"at most {_LONGEST}")
        self.world = EndlessWorld(seed, max(3, scene))
        self.live, self.endless = bool(live), not steps
        self._frames = 2 * steps
        self._closed = threading.Event()

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due frames."""
        began = time.monotonic()
        for frame in self.world.frames():
            if self.live:
                self._closed.wait(max(0.0, began + frame.time_s - time.monotonic()))
            if self._closed.is_set() or (self._frames and frame.index >= self._frames):
                return
            if due(frame.time_s):
                yield frame

    def close(self) -> None:
        """Make `read` end."""
        self._closed.set()
