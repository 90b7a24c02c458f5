"""The endless loop: what is seen, remembered and answered on the shipped bundle, and what is survived in any family."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live import stream as stream_module
from score_edge.runtime.live.events import AnswerBegan, Answered, Event, Notice, StepSeen
from score_edge.runtime.live.stream import MOST_WAITING, Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")

QUESTION = "how many things moved fast?"


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), context=1024, threads=1) as opened:
        yield opened


@pytest.fixture(
    scope="module",
    params=["reference", *(pytest.param(name, marks=pytest.mark.slow) for name in ("smolvlm", "qwen3_vl"))],
)
def any_pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """The shipped bundle, and a small model of one family with plain RoPE and of one with M-RoPE."""
    name = request.param
    bundle = Bundle.open(name) if name == "reference" else request.getfixturevalue("bundle_of")(name)
    with Pipeline(bundle, context=1024, threads=1) as opened:
        yield opened


def watch(
    pipeline: Pipeline, source: Source | str, options: StreamOptions | None = None, **more: Any
) -> tuple[Stream, list[Event]]:
    """Run a stream to its end."""
    events: list[Event] = []
    opened = open_source(source) if isinstance(source, str) else source
    stream = Stream(pipeline, opened, options or StreamOptions(**more), [events.append])
    stream.run()
    return stream, events


def steps_of(events: list[Event]) -> list[StepSeen]:
    return [event for event in events if isinstance(event, StepSeen)]


def answers_of(events: list[Event]) -> list[Answered]:
    return [event for event in events if isinstance(event, Answered)]


class Frames(Source):
    """Given frames; `live` at a pace, pausing where told until let go."""

    def __init__(self, frames: list[Frame], live: bool = False, wait_s: float = 0.0) -> None:
        self.frames, self.live, self.wait_s = frames, live, wait_s
        self.pause_at, self.go_on, self.silence = -1, threading.Event(), "no signal from the test"

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        for frame in self.frames:
            if frame.index == self.pause_at:
                self.state = self.silence
                self.go_on.wait(20)
                self.state = ""
            if due(frame.time_s):
                yield frame
            time.sleep(self.wait_s)

    def close(self) -> None:
        self.go_on.set()


def step_frames(pipeline: Pipeline, steps: int) -> list[Frame]:
    """Of the endless world, at the bundle's rate."""
    vision = pipeline.bundle.manifest.vision
    images = (frame.image for frame in EndlessWorld().frames())
    return [Frame(next(images), i / vision.fps, i) for i in range(steps * vision.frames_per_step)]


def test_every_step_of_a_file_is_seen_once_in_order(pipeline: Pipeline) -> None:
    _, events = watch(pipeline, "synthetic://?steps=40")
    steps = steps_of(events)
    assert [event.step for event in steps] == list(range(40))
    assert [event.frame.index for event in steps] == list(range(1, 80, 2))
    assert all(event.dropped == 0 for event in steps)
    assert steps[0].keep.all()  # the first step is kept entirely
    assert steps[16].surprise and steps[16].keep.sum() > 10  # the scene changes
    assert steps[-1].used == sum(int(event.keep.sum()) for event in steps)


def test_the_language_model_saw_what_a_clip_would_have_shown_it(pipeline: Pipeline) -> None:
    stream, events = watch(pipeline, "synthetic://?steps=16")
    found = next(iter(stream.memory.answer(QUESTION, 4)), "")
    keep = np.stack([event.keep for event in steps_of(events)])
    pipeline.watch(pipeline.encode(EndlessWorld().scene(0).frames()).tokens, keep)
    assert next(iter(pipeline.ask(QUESTION, 4)), "") == found


def test_questions_on_a_schedule_in_stream_time(pipeline: Pipeline) -> None:
    _, events = watch(pipeline, "synthetic://?steps=40", question=QUESTION, every_s=5.0)
    times = [answer.time_s for answer in answers_of(events) if answer.why == "every"]
    assert times and all(b - a >= 5 for a, b in itertools.pairwise(times))
    assert all(answer.text and not answer.error for answer in answers_of(events))


def test_of_a_file_every_question_is_asked_at_its_time_however_long_answers_take(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: Any) -> Answered:
        time.sleep(0.3)  # meanwhile many more steps are seen
        return give_answer(*given)

    give_answer = stream_module.give_answer
    monkeypatch.setattr(stream_module, "give_answer", slowly)
    _, events = watch(pipeline, "synthetic://?steps=24", question=QUESTION, every_s=2.0)
    assert [round(answer.time_s) for answer in answers_of(events)] == [2, 4, 6, 8, 10]
    assert [step.step for step in steps_of(events)] == list(range(24))


def test_surprise_asks_by_itself_and_not_too_often(pipeline: Pipeline) -> None:
    _, events = watch(pipeline, "synthetic://?steps=60&scene=15", question=QUESTION, when_surprised=True)
    cuts = [answer for answer in answers_of(events) if answer.why == "surprise"]
    assert cuts
    surprises = [event.frame.time_s for event in steps_of(events) if event.surprise]
    assert all(b - a >= 10 for a, b in itertools.pairwise(surprises)) or len(cuts) < len(surprises)


def test_a_still_camera_spares_the_encoder_and_costs_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = EndlessWorld().scene(0).images[0]
    still = [Frame(image, i / 4, i) for i in range(60)]
    _, events = watch(pipeline, Frames(still))
    steps = steps_of(events)
    assert [event.encoded.mean() for event in steps] == [1] + [0] * 29
    assert sum(int(event.keep.sum()) for event in steps) == 36
    assert steps[-1].held == 1  # of the others nothing had to be kept
    monkeypatch.setattr(pipeline.vision, "threshold", -1.0)
    _, events = watch(pipeline, Frames(still))
    assert all(event.encoded.all() for event in steps_of(events))


def test_noise_below_the_threshold_is_no_change(pipeline: Pipeline) -> None:
    rng = np.random.default_rng(0)
    image = EndlessWorld().scene(0).images[0].astype(float)
    noisy = [
        Frame(np.clip(image + rng.standard_normal(image.shape) * 2, 0, 255).astype(np.uint8), i / 4, i)
        for i in range(40)
    ]
    _, events = watch(pipeline, Frames(noisy))
    assert sum(event.encoded.any() for event in steps_of(events)) == 1


def test_only_what_moves_is_encoded(pipeline: Pipeline) -> None:
    """A square of two by two cells moves along the bottom of a still picture."""
    image = EndlessWorld().scene(0).images[0]
    frames = []
    for i in range(40):
        moved = image.copy()
        moved[64:96, 4 * (i % 16) : 4 * (i % 16) + 32] = (255, 255, 0)
        frames.append(Frame(moved, i / 4, i))
    _, events = watch(pipeline, Frames(frames))
    cells = np.stack([event.encoded for event in steps_of(events)[1:]]).reshape(-1, 6, 6)
    assert cells[:, 4:].any((1, 2)).all()  # every step moves
    assert cells[:, :3].mean() < 0.01  # what is far from it is encoded for its age alone


def test_fifty_questions_at_once_are_bounded_and_the_rest_refused(any_pipeline: Pipeline) -> None:
    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 4)), StreamOptions(max_tokens=4), [events.append])
    waiting, refused = [], []
    for n in range(50):
        try:
            waiting.append(stream.ask(f"{n} {QUESTION}"))
        except ScoreEdgeError as error:
            refused.append(error)
    assert len(waiting) == MOST_WAITING and len(refused) == 42
    assert "8 questions are waiting already" in refused[0].message and refused[0].hint
    stream.run()
    assert [future.result().question for future in waiting] == [f"{n} {QUESTION}" for n in range(8)]
    assert len(answers_of(events)) == 8


def test_frames_that_come_during_an_answer_are_remembered_afterwards(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_pipeline.sequence, "generate", slow_generate(0.05))
    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 20)), StreamOptions(max_tokens=6), [events.append])
    stream.ask(QUESTION)
    stream.run()
    order = [type(event).__name__ for event in events if not isinstance(event, AnswerBegan)]
    first = order.index("Answered")
    assert "StepSeen" in order[first:] and len(steps_of(events)) == 20
    assert [event.step for event in steps_of(events)] == list(range(20))


def test_steps_wait_for_an_answer_whose_video_had_been_lost(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refused what it was to prefill again, and its cache is empty: the question fills it."""
    monkeypatch.setattr(any_pipeline.sequence, "generate", slow_generate(0.05))
    events: list[Event] = []

    def lose(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepSeen) and event.step == 3:
            any_pipeline.sequence.clear()
            stream.ask(QUESTION, about=0.0)

    source = Frames(step_frames(any_pipeline, 20), wait_s=0.02)
    stream = Stream(any_pipeline, source, StreamOptions(max_tokens=12), [lose])
    stream.run()
    kinds = [type(event).__name__ for event in events]
    (answer,) = answers_of(events)
    assert not answer.error and answer.text.split() == [str(n) for n in range(12)]
    assert "StepSeen" not in kinds[kinds.index("AnswerBegan") : kinds.index("Answered")]
    assert len(steps_of(events)) == 20


def slow_generate(wait_s: float) -> Callable[..., Iterator[str]]:
    def generate(max_tokens: int, *_: object) -> Iterator[str]:
        for n in range(max_tokens):
            time.sleep(wait_s)
            yield f"{n} "

    return generate


def test_a_language_model_slower_than_the_camera_drops_frames_and_not_time(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "_MOST_SEEN", 2)
    append = any_pipeline.sequence.append
    monkeypatch.setattr(any_pipeline.sequence, "append", lambda *segments: (time.sleep(0.2), append(*segments))[1])
    source = Frames(step_frames(any_pipeline, 60), live=True, wait_s=0.02)
    _, events = watch(any_pipeline, source)
    steps = steps_of(events)
    assert steps[-1].dropped > 20 and len(steps) < 40
    assert max(event.late_s for event in steps) < 3


def test_an_answer_can_be_stopped_and_the_stream_goes_on(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_pipeline.sequence, "generate", slow_generate(0.05))
    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 20)), StreamOptions(max_tokens=300), [events.append])
    assert not stream.stop_answer()
    stream.ask(QUESTION)
    runner = threading.Thread(target=stream.run)
    runner.start()
    deadline = time.monotonic() + 30
    while not stream.stop_answer() and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.join(30)
    (answer,) = answers_of(events)
    assert answer.stopped and len(answer.text) < 500
    assert len(steps_of(events)) == 20


def test_a_cancelled_question_is_not_put_and_the_stream_goes_on(any_pipeline: Pipeline) -> None:
    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 4)), StreamOptions(), [events.append])
    assert stream.ask("how many things are there?").cancel()
    kept = stream.ask(QUESTION)
    stream.run()
    assert [answer.question for answer in answers_of(events)] == [QUESTION]
    assert kept.result(0).text and not kept.cancel()

    stopped = Stream(any_pipeline, Frames(step_frames(any_pipeline, 4)), StreamOptions())
    assert stopped.ask(QUESTION).cancel()
    stopped.stop()
    stopped.run()


def test_stop_is_quick_even_during_an_answer_and_a_wait_for_the_signal(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(any_pipeline.sequence, "generate", slow_generate(0.05))
    source = Frames(step_frames(any_pipeline, 10))
    source.pause_at = 5 * any_pipeline.preprocessing.frames_per_step
    stream = Stream(any_pipeline, source, StreamOptions(max_tokens=300))
    answer = stream.ask(QUESTION)
    late = stream.ask("and this one?")
    runner = threading.Thread(target=stream.run)
    runner.start()
    deadline = time.monotonic() + 30
    while not stream._answering.is_set() and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    stream.stop()
    runner.join(10)
    assert time.monotonic() - began < 2
    assert answer.result(1).stopped
    with pytest.raises(ScoreEdgeError, match="stream ended"):
        late.result(1)
    with pytest.raises(ScoreEdgeError, match="stream has ended"):
        stream.ask(QUESTION)


def test_an_answer_during_an_outage_says_so(any_pipeline: Pipeline) -> None:
    source = Frames(step_frames(any_pipeline, 10))
    source.pause_at = 5 * any_pipeline.preprocessing.frames_per_step
    events: list[Event] = []
    stream = Stream(any_pipeline, source, StreamOptions(max_tokens=4), [events.append])
    runner = threading.Thread(target=stream.run)
    runner.start()
    deadline = time.monotonic() + 30
    while len(steps_of(events)) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    answer = stream.ask(QUESTION).result(20)
    source.go_on.set()
    runner.join(20)
    assert answer.source == "no signal from the test"
    assert answer.age_s > 0.25 and answer.time_s == source.frames[source.pause_at - 1].time_s
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == ["no signal from the test", "the signal is back"]


def test_the_cache_full_many_times_over(any_pipeline: Pipeline) -> None:
    """At 512 cells for the text that leaves room for about a dozen steps; 80 unpruned steps pass through."""
    source = Frames(step_frames(any_pipeline, 80))
    stream, events = watch(any_pipeline, source, selector="all", window=None, question=QUESTION, every_s=5.0)
    steps = steps_of(events)
    assert len(steps) == 80 and max(event.used for event in steps) <= steps[0].cells
    assert steps[-1].held >= steps[0].cells // (steps[0].keep.size + stream.memory._text_cells()) - 2
    assert all(not answer.error for answer in answers_of(events))


def test_a_question_too_long_is_an_answer_with_an_error(any_pipeline: Pipeline) -> None:
    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 10)), StreamOptions(), [events.append])
    future = stream.ask("how many " * 2000)
    stream.run()
    assert "is full" in future.result().error
    assert len(steps_of(events)) == 10


@pytest.mark.parametrize("selector", [None, "evs", "last-kept", "surge", "random", "all"])
def test_broken_tokens_are_left_out_and_said(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, selector: str | None
) -> None:
    run, calls = any_pipeline.encoder.run_cached, iter(range(1000))

    def sometimes_broken(cache: Any, **inputs: Any) -> dict[str, Any]:
        found = run(cache, **inputs)
        if next(calls) == 4:
            found["tokens"][:] = np.inf
        return found

    monkeypatch.setattr(any_pipeline.encoder, "run_cached", sometimes_broken)
    _, events = watch(any_pipeline, Frames(step_frames(any_pipeline, 20)), selector=selector)
    assert [event.step for event in steps_of(events)] == [*range(4), *range(5, 20)]
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert notice.text == "step 4 is left out: visual tokens are not finite"


def test_an_encoder_that_fails_costs_its_steps_and_one_notice(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = any_pipeline.encoder.run_cached, iter(range(1000))

    def sometimes_failing(cache: Any, **inputs: Any) -> dict[str, Any]:
        if 4 <= next(calls) < 8:
            raise RuntimeError("CUDA error 700")
        return run(cache, **inputs)

    monkeypatch.setattr(any_pipeline.encoder, "run_cached", sometimes_failing)
    _, events = watch(any_pipeline, Frames(step_frames(any_pipeline, 20)))
    assert steps_of(events)[4].encoded.all()  # nothing is taken for encoded that failed
    assert len(steps_of(events)) == 16
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == ["step 4 is left out: RuntimeError: CUDA error 700"]


def test_a_question_about_a_camera_of_which_every_step_fails_gets_its_error(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera that goes on for ever: nobody waits for its end."""

    def failing(*_: Any, **inputs: Any) -> Any:
        raise RuntimeError("CUDA error 700")

    monkeypatch.setattr(any_pipeline.encoder, "run_cached", failing)
    source = Frames(step_frames(any_pipeline, 4))
    source.pause_at, source.silence = 3 * any_pipeline.preprocessing.frames_per_step, ""
    stream = Stream(any_pipeline, source, StreamOptions())
    answer = stream.ask(QUESTION)
    runner = threading.Thread(target=stream.run)
    runner.start()
    try:
        assert "nothing has been seen yet" in answer.result(10).error and "CUDA error 700" in answer.result(0).source
    finally:
        source.go_on.set()
        runner.join(20)


def test_a_signal_that_returns_while_its_loss_is_told_is_told_too(any_pipeline: Pipeline) -> None:
    events: list[Event] = []
    source = Frames([])

    def listener(event: Event) -> None:
        events.append(event)
        source.state = ""

    stream = Stream(any_pipeline, source, StreamOptions(), [listener])
    source.state = "no signal from the test"
    for _ in range(3):
        stream._watch_the_sources()
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices == ["no signal from the test", "the signal is back"]


def test_a_language_model_that_fails_answers_with_the_error(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(max_tokens: int, *_: object) -> Iterator[str]:
        raise RuntimeError("out of memory")
        yield ""

    monkeypatch.setattr(any_pipeline.sequence, "generate", failing)
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 10)), StreamOptions())
    future = stream.ask(QUESTION)
    stream.run()
    assert future.result().error == "RuntimeError: out of memory"


def test_ctrl_c_in_an_answer_leaves_nobody_waiting_for_it(
    any_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(max_tokens: int, *_: object) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    monkeypatch.setattr(any_pipeline.sequence, "generate", interrupted)
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 4)), StreamOptions())
    future = stream.ask(QUESTION)
    with pytest.raises(KeyboardInterrupt):
        stream.run()
    with pytest.raises(ScoreEdgeError, match="the stream ended before"):
        future.result(0)


@pytest.mark.parametrize("error", [ScoreEdgeError("no room left"), OSError("no room left"), KeyError("no room left")])
def test_a_listener_that_fails_is_dropped_with_a_word(any_pipeline: Pipeline, error: Exception) -> None:
    def full(event: Event) -> None:
        raise error

    events: list[Event] = []
    stream = Stream(any_pipeline, Frames(step_frames(any_pipeline, 10)), StreamOptions(), [full, events.append])
    stream.run()
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    assert "no room left" in notice
    assert len(steps_of(events)) == 10


def test_listeners_that_fail_together_do_not_end_the_stream(any_pipeline: Pipeline) -> None:
    """Each hears of the other's failure, and fails at that."""
    told: list[str] = []

    def failing(name: str) -> Callable[[Event], None]:
        def listener(event: Event) -> None:
            told.append(name)
            raise OSError("broken pipe")

        return listener

    events: list[Event] = []
    listeners = [failing("one"), failing("other"), events.append]
    Stream(any_pipeline, Frames(step_frames(any_pipeline, 6)), StreamOptions(), listeners).run()
    assert len(steps_of(events)) == 6
    assert sorted(told) == ["one", "other"]


def test_a_source_that_fails_for_good_ends_the_stream_with_its_error(any_pipeline: Pipeline) -> None:
    class Broken(Frames):
        def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
            yield from super().read(due)
            raise ScoreEdgeError("the lens cap is on")

    with pytest.raises(ScoreEdgeError, match="lens cap"):
        watch(any_pipeline, Broken(step_frames(any_pipeline, 4)))


def test_selectors_that_need_the_clip_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(ScoreEdgeError, match="vidcom2 needs a whole clip"):
        Stream(pipeline, Frames([]), StreamOptions(selector="vidcom2"))


def test_a_context_too_small_for_a_step_is_refused() -> None:
    with (
        Pipeline(Bundle.open("reference"), context=512, threads=1) as small,
        pytest.raises(ScoreEdgeError, match="do not hold one step"),
    ):
        Stream(small, Frames([]), StreamOptions())
