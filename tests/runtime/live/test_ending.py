"""How a stream ends."""

import threading
import time

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources import background
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")


def test_the_exit_waits_for_a_slow_encoder_and_the_stream_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would end the thread inside C++, which aborts the process."""
    with Pipeline(Bundle.open("reference"), context=1024, threads=1) as pipeline:
        stream = Stream(pipeline, open_source("synthetic://?steps=20"), StreamOptions())
        see, begun = stream.perception.see, threading.Event()
        monkeypatch.setattr(stream.perception, "see", lambda step: (begun.set(), time.sleep(2.5), see(step))[2])
        threading.Thread(target=lambda: begun.wait(30) and stream.stop()).start()
        stream.run()
        assert begun.is_set()
        (vision,) = (thread for thread in threading.enumerate() if thread.name == "vision")
        background._wait_for_readers()
        assert not vision.is_alive()
