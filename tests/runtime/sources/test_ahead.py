"""Reading ahead: order, errors, and an end that leaves no reader behind."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.runtime.sources.ahead import read_ahead

IMAGE = np.zeros((2, 2, 3), np.uint8)


def frames(count: int, closed: list[str] | None = None, error: Exception | None = None) -> Iterator[Frame]:
    try:
        for number in range(count):
            yield Frame(IMAGE, float(number), number)
        if error:
            raise error
    finally:
        if closed is not None:
            closed.append(threading.current_thread().name)


def test_the_same_frames_in_the_same_order() -> None:
    closed: list[str] = []
    assert [frame.index for frame in read_ahead(frames(20, closed))] == list(range(20))
    assert closed == ["decode"]
    assert [frame.index for frame in read_ahead(list(frames(5)))] == list(range(5))
    assert list(read_ahead(frames(0))) == []


def test_an_error_comes_after_the_frames_before_it() -> None:
    found = read_ahead(frames(3, error=ValueError("the tape tore")))
    assert [next(found).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the tape tore"):
        next(found)


def test_whoever_stops_early_leaves_no_reader_and_few_frames_are_read_ahead() -> None:
    closed: list[str] = []
    taken = iter(range(10**9))
    source = (Frame(IMAGE, 0.0, next(taken)) for _ in range(10**6))

    def watched() -> Iterator[Frame]:
        try:
            yield from source
        finally:
            closed.append(threading.current_thread().name)

    found = read_ahead(watched())
    next(found)
    time.sleep(0.1)
    assert next(taken) <= 6
    found.close()  # type: ignore[attr-defined]
    for _ in range(50):
        if closed:
            break
        time.sleep(0.1)
    assert closed == ["decode"]


def test_a_large_frame_is_decoded_when_it_is_wanted_and_held_by_nobody_else() -> None:
    decoded: list[int] = []
    large = np.zeros((2160, 3840, 3), np.uint8)

    def source() -> Iterator[Frame]:
        for number in range(4):
            decoded.append(number)
            yield Frame(large, float(number), number)

    found = read_ahead(source())
    for number in range(4):
        assert next(found).index == number
        time.sleep(0.05)
        assert decoded == list(range(number + 1))
    assert list(found) == []
