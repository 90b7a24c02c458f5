"""The seeing half of a stream."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live.perception import Perception, Seen
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured

pytest.importorskip("llama_cpp")


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), threads=1) as opened:
        yield opened


def steps(count: int) -> Iterator[Captured]:
    frames = list(itertools.islice(EndlessWorld().frames(), 2 * count))
    return (Captured(frames[2 * i : 2 * i + 2], False, time.monotonic()) for i in range(count))


def test_the_first_step_that_is_seen_surprises_nobody_after_one_that_failed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    perception, encode, failed = Perception(pipeline, "last-kept", 0.1), pipeline.vision.encode, list[bool]()

    def failing_once(*given: Any) -> Any:
        if not failed:
            failed.append(True)
            raise ScoreEdgeError("the encoder failed")
        return encode(*given)

    monkeypatch.setattr(pipeline.vision, "encode", failing_once)
    lost, first, *_ = (perception.try_to_see(captured) for captured in steps(3))
    assert not isinstance(lost, Seen) and isinstance(first, Seen)
    assert first.keep.all() and not first.surprise and first.times_usual == 1
