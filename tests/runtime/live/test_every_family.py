"""What a question to a stream leaves behind, in every family: nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.pipeline import Pipeline

pytest.importorskip("llama_cpp")

QUESTION = "What moved in the video?"
DISTINCT = 24


@pytest.fixture(scope="module")
def pipeline(family: str, bundle_of: Callable[[str], Any]) -> Iterator[Pipeline]:
    bundle = bundle_of(family)
    model = LlamaCpp(bundle.gguf_path, context=6144, sequences=2, threads=1, cache="f32")
    with Pipeline(bundle, threads=1, model=model) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(pipeline: Pipeline) -> np.ndarray:
    vision = pipeline.bundle.manifest.vision
    images = np.random.default_rng(7).integers(
        0, 256, (DISTINCT * vision.frames_per_step, vision.height, vision.width, 3), dtype=np.uint8
    )
    return pipeline.encode([Frame(image, i / vision.fps, i) for i, image in enumerate(images)]).tokens


def watch(memory: VideoMemory, tokens: np.ndarray, numbers: range) -> None:
    for number in numbers:
        scores = np.random.default_rng(number).random(tokens.shape[1], np.float32)
        keep = scores > 0.75 if number else np.ones(tokens.shape[1], np.bool_)
        memory.append(tokens[number % DISTINCT], keep, scores)


def next_token(memory: VideoMemory, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Logits behind a question."""
    found: list[np.ndarray] = []
    sequence = memory._sequence
    with monkeypatch.context() as patch:
        patch.setattr(sequence, "generate", lambda _: found.append(sequence.logits()) or ())
        list(memory.answer(QUESTION, 1))
    return found[0]


@pytest.mark.parametrize("window", [None, 8])
def test_a_question_and_a_hundred_steps_later_nothing_is_left_of_it(
    pipeline: Pipeline, tokens: np.ndarray, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stream is asked, stopped in an answer and asked too much; the other sees the same and is asked nothing."""
    other = pipeline.model.sequence()
    try:
        asked, quiet = (
            VideoMemory(pipeline.model, sequence, pipeline.layout, cells=5000, window=window)
            for sequence in (pipeline.sequence, other)
        )
        for memory in (asked, quiet):
            watch(memory, tokens, range(20))
        list(asked.answer(QUESTION, 8))
        stopped = asked.answer(QUESTION, 8)
        next(stopped, None)
        stopped.close()
        with pytest.raises(ScoreEdgeError, match="is full"):
            list(asked.answer("what moved? " * 4000, 8))
        for memory in (asked, quiet):
            watch(memory, tokens, range(20, 120))
        assert asked.tokens == quiet.tokens and asked.steps == (window or 120)
        without = next_token(quiet, monkeypatch)
        assert np.abs(without).max() > 1  # not a flat nothing
        assert np.abs(next_token(asked, monkeypatch) - without).max() <= 1e-3
    finally:
        other.close()
