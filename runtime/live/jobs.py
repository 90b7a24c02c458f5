"""Work that others leave for one thread."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future


class Jobs:
    """What only one thread may do, because it alone touches the language model; others wait until it is done.

    Args:
        changed: guards it, and is told of a new job.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._waiting: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._refusal: Exception | None = None
        self.thread: threading.Thread | None = None
        """The one; None while everybody may do it."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def do(self, job: Callable[[], None], *, later: bool = False) -> None:
        """Have it done; returns when it is, and raises what it raised.

        Args:
            job: short.
            later: the one thread must not do it right now either: it is put off, and not waited for.

        Raises:
            Exception: what `refuse` was given.
        """
        mine = threading.current_thread() is self.thread
        done = Future[None]()
        with self._changed:
            if self._refusal:
                raise self._refusal
            put = later if mine else self.thread is not None
            if put:
                self._waiting.append((job, done))
                self._changed.notify_all()
        if not put:
            job()
        elif not mine:
            done.result()

    def next(self) -> Callable[[], None] | None:
        """The next job for the one thread, which never raises; None when there is none."""
        if not self._waiting:
            return None
        job, done = self._waiting.popleft()

        def run() -> None:
            try:
                job()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        return run

    def refuse(self, refusal: Exception) -> None:
        """There is no such thread any more: from now on this is raised, also to those that wait."""
        with self._changed:
            self._refusal = refusal
            waiting, self._waiting = self._waiting, deque()
        for _, done in waiting:
            done.set_exception(refusal)
