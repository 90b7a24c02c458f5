"""How a stream ends."""

import threading
import time

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")


def test_no_thread_is_left_in_a_slow_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would end it inside C++, which aborts the process."""
    with Pipeline(Bundle.open("reference"), context=1024, threads=1) as pipeline:
        stream = Stream(pipeline, open_source("synthetic://?steps=20"), StreamOptions())
        see, begun = stream.perception.see, threading.Event()
        monkeypatch.setattr(stream.perception, "see", lambda step: (begun.set(), time.sleep(1.5), see(step))[2])
        threading.Thread(target=lambda: begun.wait(30) and stream.stop()).start()
        stream.run()
        assert begun.is_set()
        assert not [thread for thread in threading.enumerate() if thread.name == "vision"]
