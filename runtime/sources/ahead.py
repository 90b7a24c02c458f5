"""Frames decoded in a thread of their own, while the encoder is busy with those before."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from score_edge.core import Frame
from score_edge.runtime.sources.background import start_reader
from score_edge.runtime.sources.base import stop_reading

_AHEAD = 2
"""Decoded frames that wait at most: they are held at full size."""
_POLL_S = 0.1


def read_ahead(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The same frames in the same order, read by one other thread; raises what reading them raised."""
    if isinstance(frames, Sequence):
        yield from frames
        return
    ready: queue.Queue[Frame | BaseException | None] = queue.Queue(_AHEAD)
    unwanted = threading.Event()

    def hand_over(item: Frame | BaseException | None) -> None:
        while not unwanted.is_set():
            try:
                return ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue

    def read() -> None:
        end: BaseException | None = None
        try:
            source = iter(frames)
            try:
                for frame in source:
                    hand_over(frame)
                    if unwanted.is_set():
                        break
            finally:
                stop_reading(source)
        except BaseException as error:
            end = error
        hand_over(end)

    start_reader(threading.Thread(target=read, name="decode", daemon=True), unwanted.set)
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            del item
    finally:
        unwanted.set()
