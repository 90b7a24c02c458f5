"""Streams of every family: a question leaves nothing behind, and every option of the command works."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from score_edge import cli
from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import sample_clip

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
        patch.setattr(sequence, "generate", lambda *_: found.append(sequence.logits()) or ())
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
        least = window or 120  # a state that cannot be turned back keeps a quarter more until it is made anew
        assert asked.tokens == quiet.tokens and least <= asked.steps == quiet.steps <= 1.25 * least
        without = next_token(quiet, monkeypatch)
        assert np.abs(without).max() > 1  # not a flat nothing
        assert np.abs(next_token(asked, monkeypatch) - without).max() <= 1e-3
    finally:
        other.close()


def test_the_command_asks_when_surprised_records_and_tells(
    family: str, bundle_of: Callable[[str], Any], tmp_path: Path
) -> None:
    recording = tmp_path / "seen.mkv"
    options = ["--source", "synthetic://?steps=60&scene=15", "--ask", QUESTION, "--when-surprised", "--max-tokens", "4"]
    options += ["--record", str(recording), "--context", "2048", "--threads", "1", "--json"]
    done = CliRunner().invoke(cli.app, ["stream", str(bundle_of(family).folder), *options])
    assert done.exit_code == 0, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    answers = [event for event in events if event["event"] == "answer"]
    assert events[0]["event"] == "runs_on" and not [event for event in events if event["event"] == "notice"]
    assert answers and all(answer["why"] == "surprise" and not answer["error"] for answer in answers)
    assert 0 < sum(len(step["kept"]) for step in steps[1:]) < 0.5 * sum(step["of"] for step in steps[1:])
    assert len(list(sample_clip(recording, 100, 200))) >= len(steps)
