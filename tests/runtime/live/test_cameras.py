"""Several cameras of one stream: each as if alone, one budget, and what becomes of one does not touch the others."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.llama_sequence import LlamaSequence
from score_edge.runtime.language.sampling import Sampling
from score_edge.runtime.live.events import AnswerBegan, Answered, Event, Notice, StepSeen
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.capture import Capture

pytest.importorskip("llama_cpp")

QUESTION = "how many things moved fast?"
NAMES = ("front", "yard", "door", "hall")


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), context=2048, threads=1, sequences=5) as opened:
        yield opened


class Frames(Source):
    """Given frames; pauses before one until let go, and may end with an error."""

    def __init__(
        self, frames: list[Frame], pause_at: int = -1, error: Exception | None = None, wait_s: float = 0
    ) -> None:
        self.frames, self.pause_at, self.error, self.wait_s = frames, pause_at, error, wait_s
        self.go_on, self.closed = threading.Event(), threading.Event()

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        for frame in self.frames:
            if frame.index == self.pause_at:
                self.go_on.wait(30)
            if self.closed.is_set():
                return
            if due(frame.time_s):
                yield frame
            time.sleep(self.wait_s)
        if self.error:
            raise self.error

    def close(self) -> None:
        self.closed.set()
        self.go_on.set()


def world(seed: int, steps: int) -> list[Frame]:
    return [frame for frame, _ in zip(EndlessWorld(seed).frames(), range(2 * steps), strict=False)]


def noisy_still(steps: int) -> list[Frame]:
    """A camera that sees nothing but its own noise."""
    rng = np.random.default_rng(0)
    image = EndlessWorld().scene(0).images[0].astype(float)
    noise = rng.standard_normal((2 * steps, *image.shape))
    return [Frame(np.clip(image + n, 0, 255).astype(np.uint8), i / 4, i) for i, n in enumerate(noise)]


def watch(pipeline: Pipeline, sources: Any, **options: Any) -> tuple[Stream, list[Event]]:
    events: list[Event] = []
    stream = Stream(pipeline, sources, StreamOptions(**options), [events.append])
    stream.run()
    return stream, events


def steps_of(events: list[Event], camera: str = "") -> list[StepSeen]:
    return [event for event in list(events) if isinstance(event, StepSeen) and event.camera == camera]


def notices_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def wait_until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not what() and time.monotonic() < end:
        time.sleep(0.01)
    assert what()


def ask_behind(stream: Stream, steps: dict[str, int], **all_of_them: Any) -> "dict[str, Future[Answered]]":
    """Ask each camera when so many of its steps are remembered, and all of them ("") when all are."""
    answers: dict[str, Future[Answered]] = {}
    seen = dict.fromkeys(steps, 0)

    def listener(event: Event) -> None:
        if isinstance(event, StepSeen):
            seen[event.camera] += 1
            if seen == steps:
                answers[""] = stream.ask(QUESTION, **all_of_them)
            if len(steps) > 1 and seen[event.camera] == steps[event.camera]:
                answers[event.camera] = stream.ask(QUESTION, camera=event.camera)

    stream.listen(listener)
    return answers


@pytest.fixture
def first_logits(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Logits of the first token of every answer, in order."""
    found: list[np.ndarray] = []
    generate = LlamaSequence.generate

    def noted(self: LlamaSequence, max_tokens: int, *_: object) -> Iterator[str]:
        found.append(self.logits())
        return generate(self, max_tokens)

    monkeypatch.setattr(LlamaSequence, "generate", noted)
    return found


def answers_behind(
    pipeline: Pipeline, clips: dict[str, list[Frame]], first_logits: list[np.ndarray]
) -> dict[str, tuple[np.ndarray, Answered]]:
    """Unpruned, so that nothing is shared: the first logits and the answer of each camera, and of all as ""."""
    events: list[Event] = []
    options = StreamOptions(retention=1.0, selector="last-kept", max_tokens=4)
    stream = Stream(pipeline, {name: Frames(frames) for name, frames in clips.items()}, options, [events.append])
    ask_behind(stream, {name: len(frames) // 2 for name, frames in clips.items()})
    first_logits.clear()
    stream.run()
    answers = [event for event in events if isinstance(event, Answered)]
    assert not any(answer.error for answer in answers)
    return {answer.camera: (logits, answer) for logits, answer in zip(first_logits, answers, strict=True)}


@pytest.mark.parametrize("count", [2, 4])
def test_each_camera_answers_as_it_does_alone(pipeline: Pipeline, first_logits: list[np.ndarray], count: int) -> None:
    clips = {name: world(3 + n, 8 + 2 * n) for n, name in enumerate(NAMES[:count])}
    together = answers_behind(pipeline, clips, first_logits)
    assert set(together) == {*clips, ""}
    for name, frames in clips.items():
        logits, alone = answers_behind(pipeline, {name: frames}, first_logits)[name]
        shared, answer = together[name]
        assert answer.text == alone.text and answer.time_s == alone.time_s
        np.testing.assert_allclose(shared, logits, atol=1e-2)


@pytest.mark.parametrize("retention", [0.1, 0.25])
def test_one_budget_goes_to_what_surprises_and_nobody_starves(
    pipeline: Pipeline, retention: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 260
    monkeypatch.setattr(pipeline.vision, "threshold", -1.0)  # noise counts as change: the budget has to choose
    sources = {"busy": Frames(world(3, steps)), "still": Frames(noisy_still(steps))}
    _, events = watch(pipeline, sources, retention=retention, selector="last-kept", window=None)
    seen = [event for event in events if isinstance(event, StepSeen)]
    assert {event.step for event in steps_of(events, "still")} == set(range(steps))
    # What the budget chose: the memory keeps more where older steps make way, which a window of None avoids.
    kept = np.cumsum([event.keep.sum() for event in seen])
    off = kept / (np.arange(1, len(seen) + 1) * 36 * retention) - 1
    assert np.abs(off[200:]).max() <= 0.02 + 1e-6
    busy, still = (np.array([event.keep.sum() for event in steps_of(events, name)]) for name in sources)
    assert busy[1:].sum() > 2 * still[1:].sum()
    minute = 120
    floors = [still[i : i + minute].sum() for i in range(1, steps - minute)]
    assert min(floors) >= 0.1 * retention * 36 * minute - 1
    assert busy[0] == still[0] == 36  # each begins whole


def test_a_camera_that_dies_is_named_and_the_others_go_on(pipeline: Pipeline) -> None:
    sources = {"front": Frames(world(3, 4), error=ScoreEdgeError("the lens cap is on")), "yard": Frames(world(4, 20))}
    _, events = watch(pipeline, sources)
    assert len(steps_of(events, "front")) == 4 and len(steps_of(events, "yard")) == 20
    assert notices_of(events)[0] == "front: the lens cap is on"
    assert all(source.closed.is_set() for source in sources.values())


def test_the_stream_fails_when_all_cameras_did(pipeline: Pipeline) -> None:
    broken = {name: Frames(world(3, 2), error=ScoreEdgeError("the lens cap is on")) for name in NAMES}
    with pytest.raises(ScoreEdgeError, match="lens cap"):
        watch(pipeline, broken)


def test_a_step_that_one_camera_loses_is_the_others_gain(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline.encoder.run_cached
    dark = np.zeros((96, 96, 3), np.uint8)

    def no_dark(cache: Any, **inputs: Any) -> Any:
        if np.ptp(inputs["patches"]) == 0:
            raise RuntimeError("CUDA error 700")
        return run(cache, **inputs)

    monkeypatch.setattr(pipeline.encoder, "run_cached", no_dark)
    sources = {"front": Frames([Frame(dark, i / 4, i) for i in range(20)]), "yard": Frames(world(4, 20))}
    _, events = watch(pipeline, sources)
    assert not steps_of(events, "front") and len(steps_of(events, "yard")) == 20
    assert "front: step 0 is left out: RuntimeError: CUDA error 700" in notices_of(events)


def test_cameras_come_and_go_while_the_stream_runs(pipeline: Pipeline) -> None:
    waiting = Frames(world(3, 6), pause_at=4)
    events: list[Event] = []
    stream = Stream(pipeline, {"front": waiting}, StreamOptions(), [events.append])
    runner = threading.Thread(target=stream.run)
    runner.start()
    for round_ in range(8):  # more often than there are places
        name = f"guest-{round_}"
        guest = Frames(world(5 + round_, 4))
        stream.add(name, guest)
        wait_until(lambda name=name: len(steps_of(events, name)) == 4)
        assert stream.ask(QUESTION, camera=name).result(20).text
        stream.remove(name)
        assert guest.closed.is_set() and stream.cameras == ["front"]
    with pytest.raises(ScoreEdgeError, match="no camera 'guest-1'"):
        stream.ask(QUESTION, camera="guest-1")
    waiting.go_on.set()
    runner.join(20)
    assert len(steps_of(events, "front")) == 6
    with pytest.raises(ScoreEdgeError, match="the stream has ended"):
        stream.add("late", Frames([]))


def test_the_last_camera_may_go_and_another_come(pipeline: Pipeline) -> None:
    events: list[Event] = []
    stream = Stream(pipeline, {"front": Frames(world(3, 4), pause_at=4)}, StreamOptions(), [events.append])
    runner = threading.Thread(target=stream.run)
    runner.start()
    wait_until(lambda: len(steps_of(events, "front")) == 2)
    stream.remove("front")
    assert stream.cameras == [] and "nothing has been seen yet" in stream.ask(QUESTION).result(20).error
    runner.join(0.5)
    assert runner.is_alive()
    stream.add("yard", Frames(world(4, 6)))
    wait_until(lambda: len(steps_of(events, "yard")) == 6)
    runner.join(20)  # its source has ended
    assert not runner.is_alive()


def test_a_question_to_a_camera_that_is_removed_is_refused(pipeline: Pipeline) -> None:
    silent = Frames(world(3, 4), pause_at=0)
    stream = Stream(pipeline, {"front": Frames(world(3, 4), pause_at=4), "yard": silent}, StreamOptions())
    runner = threading.Thread(target=stream.run)
    runner.start()
    answer = stream.ask(QUESTION, camera="yard")
    assert stream.ask(QUESTION, camera="front").result(20).text  # is not kept waiting by it
    stream.remove("yard")
    with pytest.raises(ScoreEdgeError, match="yard was removed"):
        answer.result(5)
    stream.stop()
    runner.join(20)


def test_a_listener_may_remove_the_camera_that_answers(pipeline: Pipeline) -> None:
    stream = Stream(pipeline, {"front": Frames(world(3, 8)), "yard": Frames(world(4, 60))}, StreamOptions())
    removed = []

    def listener(event: Event) -> None:
        if not isinstance(event, StepSeen | Notice) and not removed:
            removed.append(event)
            stream.remove("front")

    stream.listen(listener)
    answer = stream.ask(QUESTION, camera="front")
    stream.run()
    assert removed and answer.result(1).text and stream.cameras == ["yard"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["", "yard"], "has no name"),
        (["<|im_end|>", "yard"], "no name for a camera"),
        ([str(n) for n in range(6)], "camera '5' needs a sequence"),
    ],
)
def test_cameras_that_cannot_be(pipeline: Pipeline, names: list[str], message: str) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        Stream(pipeline, {name: Frames([]) for name in names}, StreamOptions())
    watch(pipeline, {name: Frames(world(3, 2)) for name in NAMES})  # all places are free again


def test_a_question_to_all_cameras_is_one_prompt(pipeline: Pipeline, first_logits: list[np.ndarray]) -> None:
    clips = {"front": world(3, 6), "yard": world(4, 8)}
    logits, answer = answers_behind(pipeline, clips, first_logits)[""]
    assert answer.time_s == 15 / 4
    sequence = pipeline.sequence
    sequence.clear()
    texts = "<|im_start|>user\nfront: <|vision_start|>", "<|vision_end|> yard: <|vision_start|>"
    for text, frames in zip(texts, clips.values(), strict=True):
        tokens = pipeline.encode(frames).tokens
        keep = np.ones(tokens.shape[:2], bool)
        sequence.append(text, Rows.of(KeptTokens.gather(tokens, keep, pipeline.layout.grid)))
    sequence.append(pipeline.layout.question("", QUESTION))
    np.testing.assert_allclose(logits, sequence.logits(), atol=1e-2)


def test_a_question_to_all_that_does_not_fit_says_whom_to_ask(pipeline: Pipeline) -> None:
    sources = {name: Frames(world(3, 40)) for name in NAMES}
    stream = Stream(pipeline, sources, StreamOptions(selector="all"))
    answer = ask_behind(stream, dict.fromkeys(NAMES, 40))
    stream.run()
    error = answer[""].result(1).error
    assert "context of 2048 tokens" in error and "ask one of them by its name, front or another" in error


def test_an_answer_of_all_cameras_fills_the_room_that_their_prompt_leaves(pipeline: Pipeline) -> None:
    sources = {name: Frames(world(3, 12)) for name in NAMES}
    stream = Stream(pipeline, sources, StreamOptions(selector="all"))
    endless = Sampling(temperature=1.0, seed=7, grammar="root ::= [a-z]{2000}")
    answer = ask_behind(stream, dict.fromkeys(NAMES, 12), max_tokens=4096, sampling=endless)
    stream.run()
    found = answer[""].result(0)
    assert not found.error and found.ended and found.ended.reason == "length"
    assert found.ended.prompt + found.ended.tokens == 2048 and found.ended.prompt > 4 * 12 * 36


def test_a_question_to_all_needs_a_spare_sequence(pipeline: Pipeline) -> None:
    stream = Stream(pipeline, {name: Frames(world(3, 4)) for name in (*NAMES, "roof")}, StreamOptions())
    answer = stream.ask(QUESTION)
    stream.run()
    assert "a question to all cameras needs a sequence" in answer.result(1).error


def test_the_newest_frame_and_the_state_are_those_of_the_camera_that_is_asked(pipeline: Pipeline) -> None:
    lost = Frames(world(3, 8), pause_at=8)
    steady = Frames(world(4, 20), pause_at=30)
    events: list[Event] = []
    stream = Stream(pipeline, {"front": lost, "yard": steady}, StreamOptions(max_tokens=4), [events.append])
    runner = threading.Thread(target=stream.run)
    runner.start()
    wait_until(lambda: len(steps_of(events, "front")) == 4 and len(steps_of(events, "yard")) == 15)
    lost.state = "no signal from the test"
    front, yard, both = (stream.ask(QUESTION, camera=name).result(20) for name in ("front", "yard", None))
    assert (front.source, yard.source, both.source) == (lost.state, "", "front: no signal from the test")
    assert front.time_s == 7 / 4 and yard.time_s == both.time_s == 29 / 4
    stream.stop()
    runner.join(20)
    assert "front: no signal from the test" in notices_of(events)


def test_no_camera_waits_for_the_encoder_for_ever() -> None:
    """A step that takes the place of one nobody took has waited as long as that one."""
    source = Frames(world(3, 8))
    source.live = True
    changed = threading.Condition()
    capture = Capture(source, 4.0, 2, changed)
    wait_until(lambda: capture.dropped == 14)
    due = capture.due
    taken = capture.take(1)
    assert taken is not None and due is not None and due < taken.arrived
    assert capture.due == 0.0 and capture.take(0) is None


def test_an_encoder_too_slow_for_all_serves_them_in_turn(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline.encoder.run_cached
    monkeypatch.setattr(
        pipeline.encoder, "run_cached", lambda cache, **inputs: (time.sleep(0.06), run(cache, **inputs))[1]
    )
    sources = {}
    for n, name in enumerate(NAMES[:3]):
        sources[name] = Frames(world(3 + n, 40), wait_s=0.02)
        sources[name].live = True
    _, events = watch(pipeline, sources)
    counts = [len(steps_of(events, name)) for name in sources]
    assert sum(counts) < 60 and max(counts) - min(counts) <= 4
    assert all(steps_of(events, name)[-1].dropped > 10 for name in sources)


def test_newest_steps_and_nothing_else(pipeline: Pipeline) -> None:
    stream, events = watch(pipeline, Frames(world(3, 20)), memory="newest", window=4)
    assert all(event.keep.all() for event in steps_of(events))
    assert steps_of(events)[-1].held == 4 and stream.memory.tokens == 4 * 36
    for wrong in ({"selector": "evs"}, {"retention": 0.1}, {"pinned": 0.1}):
        with pytest.raises(ScoreEdgeError, match="newest steps keeps them entirely"):
            StreamOptions(memory="newest", **wrong)


def test_a_long_answer_of_one_camera_keeps_no_other_from_being_seen(pipeline: Pipeline) -> None:
    asked = threading.Event()
    order: list[str] = []
    heard: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepSeen):
            order.append(event.camera)
            if len(set(order)) == 2:
                asked.set()
        elif isinstance(event, AnswerBegan | Answered):
            order.append(type(event).__name__)

    def hear(piece: str) -> None:
        heard.append(piece)
        time.sleep(0.05)

    sources = {name: Frames(world(3 + n, 60), wait_s=0.02) for n, name in enumerate(("front", "yard"))}
    stream = Stream(pipeline, sources, StreamOptions(), [listen])
    running = threading.Thread(target=stream.run)
    running.start()
    assert asked.wait(30)
    sampling = Sampling(temperature=1.5, seed=7, grammar="root ::= [a-z]{30}")
    answer = stream.ask(QUESTION, camera="front", max_tokens=80, sampling=sampling, on_text=hear).result(30)
    again = stream.ask(QUESTION, camera="front", max_tokens=3).result(30)
    stream.stop()
    running.join(30)
    meanwhile = order[order.index("AnswerBegan") : order.index("Answered")]
    assert meanwhile.count("yard") >= 5 and "front" not in meanwhile
    assert len(answer.text) == 30 and answer.text == "".join(heard) and answer.ended and answer.ended.reason == "stop"
    assert 0 < answer.cached < answer.ended.prompt
    assert again.ended and again.ended.tokens <= 3


def test_whoever_hears_an_answer_may_end_it(pipeline: Pipeline) -> None:
    def gone(piece: str) -> None:
        raise ScoreEdgeError("nobody waits for it")

    stream = Stream(pipeline, {"front": Frames(world(3, 8))}, StreamOptions())
    answer, after = stream.ask(QUESTION, on_text=gone), stream.ask(QUESTION)
    stream.run()
    assert answer.result(0).error == "nobody waits for it" and not answer.result(0).ended
    assert after.result(0).text
