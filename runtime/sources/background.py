"""Calls that block for seconds, run where they hinder nobody: Ctrl-C and `close` end the wait for them at once."""

import atexit
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_AT_MOST_S: Final = 25.0
"""That a decoder may wait for the network: to open it and for its first frame."""
_READERS: dict[threading.Thread, Callable[[], None]] = {}
_STARTING = threading.Lock()


def start_reader(thread: threading.Thread, end: Callable[[], None]) -> None:
    """Start a thread that calls a decoder, or an encoder. At exit it is asked to `end` and waited for.

    The interpreter must not go while a thread is inside C++: the process would abort.
    """
    with _STARTING:
        for old in [old for old in _READERS if not old.is_alive()]:
            del _READERS[old]
        thread.start()
        _READERS[thread] = end


def someone_reads() -> bool:
    """Whether a decoder is still being called; whoever cannot wait for it leaves by ``os._exit``."""
    with _STARTING:
        return any(thread.is_alive() for thread in _READERS)


@atexit.register
def _wait_for_readers() -> None:
    with _STARTING:
        readers = dict(_READERS)
    for end in readers.values():
        end()
    deadline = time.monotonic() + _AT_MOST_S
    for thread in readers:
        thread.join(max(0.0, deadline - time.monotonic()))


class Background(Generic[T]):
    """A call in a thread of its own.

    Args:
        call: what blocks.
        discard: frees a result that came when nobody waited any more; in the thread that made it.

    Example:
        >>> Background(lambda: 6 * 7, lambda result: None).wait(threading.Event())
        42
    """

    def __init__(self, call: Callable[[], T], discard: Callable[[T], None]) -> None:
        self._call, self._discard = call, discard
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = False
        self._result: T | None = None
        self._error: BaseException | None = None
        start_reader(threading.Thread(target=self._run, name="connect", daemon=True), self._abandon)

    def wait(self, closed: threading.Event) -> T | None:
        """The result, or None when `closed` was set first. Raises what the call raised."""
        try:
            while not (self._done.wait(0.05) or closed.is_set()):
                continue
        finally:
            with self._lock:
                result, self._result = self._result, None
                self._abandoned = not self._done.is_set()
        if self._error is not None:
            raise self._error
        return result

    def _abandon(self) -> None:
        with self._lock:
            self._abandoned = not self._done.is_set()

    def _run(self) -> None:
        result, error = None, None
        try:
            result = self._call()
        except BaseException as caught:
            error = caught
        with self._lock:
            self._done.set()
            abandoned = self._abandoned
            if not abandoned:
                self._result, self._error = result, error
        if abandoned and result is not None:
            self._discard(result)
