"""Threads that call decoders: started from anywhere, waited for at exit."""

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from score_edge.runtime.sources import background
from score_edge.runtime.sources.background import someone_reads, start_reader


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns after every few instructions."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_cameras_that_come_back_at_once_do_not_end_each_other(hasty: None) -> None:
    failed: list[BaseException] = []

    def reconnect() -> None:
        try:
            for _ in range(300):
                start_reader(threading.Thread(target=lambda: None), lambda: None)
                someone_reads()
        except BaseException as error:
            failed.append(error)

    cameras = [threading.Thread(target=reconnect) for _ in range(4)]
    for camera in cameras:
        camera.start()
    for camera in cameras:
        camera.join()
    assert failed == []


def test_the_exit_waits_for_all_stuck_decoders_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight cameras that hang each would else have its quarter of a minute, and systemd kills after 90 s."""
    monkeypatch.setattr(background, "_READERS", {})
    monkeypatch.setattr(background, "_AT_MOST_S", 0.2)
    let_go = threading.Event()
    for _ in range(8):
        start_reader(threading.Thread(target=let_go.wait, args=(20,), daemon=True), lambda: None)
    began = time.monotonic()
    background._wait_for_readers()
    took = time.monotonic() - began
    let_go.set()
    assert 0.2 <= took < 0.8
