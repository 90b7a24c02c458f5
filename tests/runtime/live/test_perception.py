"""The seeing half of a stream."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
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


def test_what_a_step_showed_that_could_not_be_scored_is_chosen_in_the_next(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something appears in that step and rests: nothing of it changes any more."""
    before, *_, after = (captured.frames for captured in steps(20))
    found = dict[bool, list[Seen]]()
    for fails in (False, True):
        perception = Perception(pipeline, "last-kept", 0.1)
        score = perception._scorer.score

        def failing(*given: Any, fails: bool = fails, score: Any = score) -> Any:
            if fails:
                raise RuntimeError("CUDA error 700")
            return score(*given)

        seen = [perception.try_to_see(Captured(before, False, 0.0)) for _ in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(perception._scorer, "score", failing)
            seen.append(perception.try_to_see(Captured(after, False, 0.0)))
        seen += [perception.try_to_see(Captured(after, False, 0.0)) for _ in range(3)]
        assert isinstance(seen[3], Seen) is not fails
        found[fails] = [step for step in seen if isinstance(step, Seen)]
    shown, late = found[False][3], found[True][3]
    assert shown.keep.any() and np.array_equal(shown.keep, late.keep)
