"""Worker processes: what they are started with, and that they do not outlive the process that wants their work."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from score_edge import workers
from score_edge.workers import worker_pool

PROGRAM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_workers import nothing
from score_edge.workers import worker_pool
if __name__ == "__main__":
    pool = worker_pool(2, nothing)
    print(*{pool.submit(os.getpid).result() for _ in range(20)}, flush=True)
    time.sleep(60)
"""
greeting = ""


def nothing() -> None: ...


def greet(word: str) -> None:
    global greeting
    greeting = word


def greeted() -> str:
    return greeting


def sleep_but_first(number: int) -> int:
    time.sleep(30 if number else 0)
    return number


def test_each_is_started_with_what_it_needs() -> None:
    with worker_pool(1, greet, "hello") as pool:
        assert pool.submit(greeted).result() == "hello"


def warn() -> None:
    logging.getLogger("score_edge.somewhere").warning("this CPU overflows")


def test_what_they_warn_of_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    with worker_pool(3, warn) as pool:
        assert list(pool.map(abs, [-1] * 30)) == [1] * 30
    assert capfd.readouterr().err == "warning: this CPU overflows\n"


def test_an_interrupt_is_lost_only_while_a_process_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    really, hears = ProcessPoolExecutor.submit, list[bool]()

    def submit(pool: ProcessPoolExecutor, *given: Any) -> "Future[Any]":
        hears.append(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)
        return really(pool, *given)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with worker_pool(1, nothing) as pool:
        assert list(pool.map(abs, range(50))) == list(range(50))
    assert hears == [False] + [True] * 49


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_an_interrupt_while_work_waits_breaks_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    began, failed = time.monotonic(), list[object]()
    monkeypatch.setattr(threading, "excepthook", failed.append)
    really = workers._Pool.shutdown

    def late(pool: workers._Pool, *given: bool, **named: bool) -> None:
        time.sleep(0.3)  # whoever watches the processes sees first that they are gone
        really(pool, *given, **named)

    monkeypatch.setattr(workers._Pool, "shutdown", late)
    with pytest.raises(KeyboardInterrupt), worker_pool(2, nothing) as pool:
        work = [pool.submit(sleep_but_first, number) for number in range(30)]
        assert work[0].result() == 0
        for future in work:  # as `map` does where it is interrupted
            future.cancel()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20 and not failed


def test_they_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        began = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(signal.SIGKILL)
    assert began
    until = time.monotonic() + 10
    while left := [worker for worker in began if alive(worker)]:
        assert time.monotonic() < until, f"{left} outlived the process that started them"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
