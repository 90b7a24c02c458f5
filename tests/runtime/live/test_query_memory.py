"""A stream that chooses its tokens when the question comes: as `ask` would of the same steps, and bounded."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Frame
from score_edge.errors import ScoreEdgeError
from score_edge.learning.policy_run import with_policy
from score_edge.learning.query_run import with_query
from score_edge.reference import world
from score_edge.runtime.live.events import AnswerBegan, Answered, Event, StepSeen
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.query_memory import QueryMemory
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")

QUESTIONS = ("how many things moved fast?", "what color is the ring that moved?")
STEPS = 12


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), context=1024, threads=1, sequences=3) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(pipeline: Pipeline) -> Float32:
    return pipeline.encode(world.make_clip(world.TEST_SEED, 5, STEPS).frames(), full=True).tokens


def memory_of(pipeline: Pipeline, retention: float = 0.1, cells: int = 400, window: int | None = None) -> QueryMemory:
    return QueryMemory(pipeline, pipeline.sequence, "score-query", retention, cells=cells, window=window)


def feed(memory: QueryMemory, tokens: Float32) -> None:
    nothing = np.zeros(tokens.shape[1], np.bool_)
    for t, step in enumerate(tokens):
        memory.append(step, nothing, np.zeros(len(nothing), np.float32), float(t))


@pytest.mark.parametrize("window", [None, 5])
def test_it_answers_as_ask_does_of_the_steps_it_holds(pipeline: Pipeline, tokens: Float32, window: int | None) -> None:
    memory = memory_of(pipeline, window=window)
    feed(memory, tokens)
    held = tokens[-(window or STEPS) :]
    assert memory.steps == len(held) and memory.tokens == held.shape[0] * held.shape[1] and memory.used == 0
    for question in QUESTIONS:
        keep = pipeline.select(held, pipeline.selector("score-query", question=question), 0.1)
        chosen = memory.clip(question)
        assert np.array_equal(np.concatenate([step.embeddings for step in chosen]), held[keep])
        assert [step.number for step in chosen] == list(range(len(held)))
        said = "".join(memory.answer(question, 8))
        pipeline.watch(held, keep)
        assert said == "".join(pipeline.ask(question, 8))
        pipeline.sequence.clear()


def test_a_question_leaves_nothing_behind_even_when_it_is_abandoned(pipeline: Pipeline, tokens: Float32) -> None:
    memory = memory_of(pipeline)
    feed(memory, tokens)
    answer = memory.answer(QUESTIONS[0], 8)
    next(answer)
    assert pipeline.sequence.mark().cells > 0
    answer.close()
    assert pipeline.sequence.mark().cells == 0
    assert memory.steps == STEPS and "".join(memory.answer(QUESTIONS[0], 8)).strip()


def test_what_is_held_is_bounded_by_the_window_and_by_what_fits(pipeline: Pipeline, tokens: Float32) -> None:
    per_step = tokens.shape[1]
    for retention, cells, window in ((0.1, 400, 4), (1.0, 5 * per_step, None), (1.0, 5 * per_step, 64)):
        memory = memory_of(pipeline, retention, cells, window)
        feed(memory, np.concatenate([tokens, tokens]))
        assert memory.steps <= (window or STEPS) and 0 < memory.steps * per_step * retention <= cells
        assert "".join(memory.answer(QUESTIONS[0], 8)).strip()
    with pytest.raises(ScoreEdgeError, match="do not hold what is kept of one step"):
        memory_of(pipeline, 1.0, per_step - 1)


def test_a_pause_is_kept_as_the_other_memory_keeps_it(pipeline: Pipeline, tokens: Float32) -> None:
    """In steps and in seconds; the shipped model was trained on fewer positions than steps are held."""
    memory, sequence = memory_of(pipeline, window=64), pipeline.model.sequence()
    other = VideoMemory(pipeline.model, sequence, pipeline.layout, cells=400, window=64, trained=24)
    for t, step in enumerate([*tokens, *[tokens[-1]] * 3, tokens[0]]):
        still = np.full(tokens.shape[1], 0 < t < STEPS or t == STEPS + 3)
        for each in (memory, other):
            each.append(step, still & (np.arange(len(still)) < 4), np.zeros(len(still), np.float32), t + 0.5)
    found, expected = (each.clip(QUESTIONS[0])[-2:] for each in (memory, other))
    for name in ("number", "seconds"):
        (before, last), (before_there, last_there) = (
            [getattr(step, name) for step in clip] for clip in (found, expected)
        )
        assert last - before == last_there - before_there == 4
    assert memory.clip(QUESTIONS[0])[0].seconds == 0.5
    sequence.close()


def test_what_the_sequence_held_before_is_not_seen(pipeline: Pipeline, tokens: Float32) -> None:
    memory = memory_of(pipeline)
    feed(memory, tokens)
    expected = "".join(memory.answer(QUESTIONS[1], 8))
    pipeline.watch(tokens[::-1], np.ones(tokens.shape[:2], np.bool_))
    memory = memory_of(pipeline)
    feed(memory, tokens)
    assert pipeline.sequence.mark().cells == 0 and "".join(memory.answer(QUESTIONS[1], 8)) == expected


def test_what_shows_nothing_new_is_held_once_and_long_pauses_shrink(pipeline: Pipeline, tokens: Float32) -> None:
    memory, trained = memory_of(pipeline, cells=40), 200
    assert pipeline.bundle.manifest.language.trained == 24  # and not 200
    memory._trained = trained
    feed(memory, np.concatenate([tokens[:3], np.repeat(tokens[2:3], 10_000, axis=0), tokens[3:5]]))
    assert memory.steps == 5
    numbers = [step.number for step in memory.clip(QUESTIONS[0])]
    assert numbers[:3] == [0, 1, 2] and numbers[4] == numbers[3] + 1
    assert 3 < numbers[3] <= trained / 2


def test_nothing_seen_is_said(pipeline: Pipeline) -> None:
    with pytest.raises(ScoreEdgeError, match="nothing has been seen yet"):
        list(memory_of(pipeline).answer(QUESTIONS[0], 8))


def test_a_bundle_without_such_a_policy_is_refused_when_the_stream_begins(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle
    selection = dataclasses.replace(bundle.manifest.selector, query=None)
    plain = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, selector=selection))
    with (
        Pipeline(plain, context=1024, threads=1) as opened,
        pytest.raises(ScoreEdgeError, match="no policy that knows"),
    ):
        Stream(opened, open_source("synthetic://?steps=4"), StreamOptions(selector="score-query"))
    with pytest.raises(ScoreEdgeError, match="pins nothing"):
        StreamOptions(selector="score-query", pinned=0.1)


class Nothing(Source):
    """A camera that ended before it showed anything."""

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        return iter(())


@pytest.mark.parametrize("seen", [True, False])
def test_one_camera_and_several_answer_from_what_the_question_chose(pipeline: Pipeline, seen: bool) -> None:
    sources: dict[str, Source] = {"front": open_source("synthetic://?steps=20&seed=1")}
    sources["yard"] = open_source("synthetic://?steps=20&seed=2") if seen else Nothing()
    stream = Stream(pipeline, sources, StreamOptions(selector="score-query", retention=0.05, max_tokens=8))
    if not seen:
        blind, whole = (stream.ask(QUESTIONS[0], camera=camera, about=float("inf")) for camera in ("yard", None))
        stream.run()
        assert "nothing has been seen yet" in blind.result(0).error
        assert not whole.result(0).error and whole.result(0).text.strip()
        return
    answers = [stream.ask(QUESTIONS[0], camera=camera, about=float("inf")) for camera in ("front", "yard", None)]
    stream.run()
    for answered in (answer.result(0) for answer in answers):
        assert not answered.error and answered.text.strip()


def test_steps_are_remembered_between_two_words_of_an_answer(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer does not stand in the cache behind the video."""
    generate = pipeline.sequence.generate

    def slow(*arguments: Any) -> Iterator[str]:
        for piece in generate(*arguments):
            time.sleep(0.2)
            yield piece

    monkeypatch.setattr(pipeline.sequence, "generate", slow)
    events: list[Event] = []
    source, options = open_source("synthetic://?steps=20"), StreamOptions(selector="score-query", max_tokens=4)
    stream = Stream(pipeline, source, options, [events.append])
    stream.ask(QUESTIONS[0])
    stream.run()
    kinds = [type(event) for event in events]
    assert StepSeen in kinds[kinds.index(AnswerBegan) : kinds.index(Answered)]


def test_every_layout_shows_what_ask_shows(family: str, bundle_of: Callable[[str], Bundle], tmp_path: Path) -> None:
    """Texts around steps, seconds and positions, with random policies."""
    torch = pytest.importorskip("torch")
    from score_edge.export.policy_graph import PolicyNetwork, export_policy
    from score_edge.export.query_graph import QueryNetwork, export_query

    bundle = bundle_of(family)
    vision = bundle.manifest.vision
    torch.manual_seed(0)
    export_policy(PolicyNetwork(vision.dim, 8).eval(), tmp_path / "policy.onnx")
    export_query(QueryNetwork(vision.dim).eval(), tmp_path / "query.onnx")
    both = with_policy(bundle, tmp_path / "policy.onnx", tmp_path / "with policy")
    both = with_query(both, tmp_path / "query.onnx", tmp_path / "bundle")
    steps, spacing = 6, vision.frames_per_step / vision.fps
    tokens = np.random.default_rng(0).standard_normal((steps, vision.token_grid.tokens, vision.dim), np.float32) / 10
    times = [spacing * (t + 0.5) for t in range(steps)]
    with Pipeline(both, context=1024, threads=1) as opened:
        try:
            memory = memory_of(opened, retention=0.3)
        except ScoreEdgeError as error:
            pytest.skip(str(error))
        for step, seconds in zip(tokens, times, strict=True):
            memory.append(step, np.zeros(len(step), np.bool_), np.zeros(len(step), np.float32), seconds)
        said = "".join(memory.answer(QUESTIONS[0], 6))
        keep = opened.select(tokens, opened.selector("score-query", question=QUESTIONS[0]), 0.3)
        opened.watch(tokens, keep, times)
        assert said == "".join(opened.ask(QUESTIONS[0], 6))
