"""Calls that block for seconds, run where they hinder nobody: Ctrl-C and `close` end the wait for them at once."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
        threading.Thread(target=self._run, name="connect", daemon=True).start()

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
