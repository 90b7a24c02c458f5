"""Threads that call decoders: started from anywhere, waited for at exit."""

import sys
import threading
from collections.abc import Iterator

import pytest

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
