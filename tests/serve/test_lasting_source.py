"""A camera that is paused and resumed at any moment."""

import threading

import pytest

pytest.importorskip("fastapi")

from score_edge.runtime.sources.address import Address
from score_edge.serve.lasting_source import LastingSource


class ResumedAtOnce(LastingSource):
    """Resumed between the look at whether it is paused and the wait until it is not."""

    looks = 0

    @property
    def _paused(self) -> bool:
        self.looks += 1
        return self.looks == 1

    @_paused.setter
    def _paused(self, paused: bool) -> None: ...


def test_a_camera_that_is_resumed_at_the_very_moment_it_pauses_goes_on() -> None:
    source = ResumedAtOnce(Address("synthetic://?steps=4"))
    found = []
    reader = threading.Thread(target=lambda: found.append(next(source.read(lambda time_s: True))), daemon=True)
    reader.start()
    reader.join(5)
    source.close()
    assert len(found) == 1 and found[0].gap
