"""Frames decoded in a thread of their own, while the encoder is busy with those before."""

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

from score_edge.core import Frame
from score_edge.runtime.sources.background import start_reader
from score_edge.runtime.sources.base import stop_reading

_AHEAD = 3
"""Frames decoded at most before they are wanted: they are held at full size."""
_LARGE = 12 << 20
"""Bytes of a frame from which on none is decoded before it is wanted: of 3840 x 2160 pixels it has 25 MB."""
_POLL_S = 0.1


def read_ahead(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The same frames in the same order, read by one other thread; raises what reading them raised."""
    if isinstance(frames, Sequence):
        yield from frames
        return
    ready: queue.Queue[Frame | BaseException | None] = queue.Queue()
    room = threading.Semaphore(1)
    unwanted = threading.Event()

    def there_is_room() -> bool:
        while not unwanted.is_set():
            if room.acquire(timeout=_POLL_S):
                return True
        return False

    def read() -> None:
        end: BaseException | None = None
        try:
            source = iter(frames)
            try:
                more = 0
                while there_is_room():
                    frame = next(source, None)
                    if frame is None:
                        break
                    if not more and frame.image.nbytes < _LARGE:
                        more = _AHEAD - 1
                        room.release(more)
                    ready.put(frame)
                    del frame
            finally:
                stop_reading(source)
        except BaseException as error:
            end = error
        ready.put(end)

    start_reader(threading.Thread(target=read, name="decode", daemon=True), unwanted.set)
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            large = item.image.nbytes >= _LARGE
            if not large:
                room.release()
            yield item
            del item
            if large:
                room.release()
    finally:
        unwanted.set()
