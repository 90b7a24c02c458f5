"""Worker processes that end with the process that started them, whatever ends it."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Lock
from typing import Any


def worker_pool(workers: int, start: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """A pool of spawned processes: a forked child inherits the locks of this process's threads, but not the threads.

    Args:
        workers: how many.
        start: called once in each, before any work.
        arguments: of `start`.
    """
    context = get_context("spawn")
    return _Pool(workers, context, _begin, (start, arguments, context.Lock()))


class _Pool(ProcessPoolExecutor):
    """Its processes never hear of Ctrl-C, which a terminal sends to all: who began them ends them, in silence."""

    _max_workers: int

    def submit(self, work: Callable[..., Any], /, *given: Any, **named: Any) -> "Future[Any]":
        """Begins processes as they are needed; once all have begun, a Ctrl-C that comes meanwhile counts."""
        with _ignoring_interrupts() if len(self._processes or ()) < self._max_workers else contextlib.nullcontext():
            return super().submit(work, *given, **named)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any pool; a second Ctrl-C would leave processes behind that Python then waits for without end."""
        with _ignoring_interrupts():
            super().shutdown(wait, cancel_futures=cancel_futures)

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        """Waits for the work that is left; after an exception nobody wants it, and the processes are killed."""
        with _ignoring_interrupts():
            if kind is None:
                self.shutdown()
                return
            processes = list((self._processes or {}).values())
            manager: Any = self._executor_manager_thread
            # Work that waits is given up first: of a pool that breaks, Python fails at work that was cancelled.
            self.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            if manager is not None:
                manager.join()
            del processes, manager  # what they hold ends in Python, which a later Ctrl-C would interrupt
            self._initargs = ()


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C meanwhile, as processes that are started meanwhile do for ever; SIGTERM, which they heed, waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    term = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, term)
        if came:
            signal.raise_signal(signal.SIGTERM)


def _begin(start: Callable[..., None], arguments: tuple[Any, ...], loud: Lock) -> None:
    if loud.acquire(block=False):  # all of them have the same to say
        logging.basicConfig(format="warning: %(message)s")
    else:
        logging.disable()
    threading.Thread(target=_follow, daemon=True).start()
    start(*arguments)


def _follow() -> None:
    """A pool whose process was killed would wait for work for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
