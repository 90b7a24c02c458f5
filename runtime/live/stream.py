"""The loop that never ends: see, remember, answer. Whoever wants to know what happens listens to its events.

Two threads work beside the capture thread: one sees (encoder), one remembers and answers (language model). Steps seen
during an answer wait for its end; when too many wait, seeing waits, and then the newest frame wins.
"""

import contextlib
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.live.events import AnswerBegan, Answered, AnswerPiece, Event, Listener, Notice, StepSeen, Why
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.perception import Perception, Seen
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.capture import Capture, Captured

MOST_WAITING = 8
"""Questions; one more is refused."""
_MOST_SEEN = 32
_TEXT_CELLS = 512
"""Of the context, for the prompt and a question; the longest answer comes on top."""
_COOL_DOWN_S = 10.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to watch.

    Attributes:
        fps: frames per second to take from the source; None takes the bundle's.
        retention, selector: None takes the bundle's.
        gate: whether steps in which nothing changed are spared the encoder.
        gate_threshold: grey levels; None takes the bundle's, or 0 where it was never calibrated.
        window: newest steps that are remembered.
        pinned: share of the memory for the highest-scoring tokens of older steps.
        question: asked again and again, every `every_s` seconds of the stream or on surprise.
        every_s: 0 never.
        when_surprised: whether a jump of kept tokens asks it, at most every 10 s.
        max_tokens: longest answer.
    """

    fps: float | None = None
    retention: float | None = None
    selector: str | None = None
    gate: bool = True
    gate_threshold: float | None = None
    window: int | None = 64
    pinned: float = 0.0
    question: str = ""
    every_s: float = 0.0
    when_surprised: bool = False
    max_tokens: int = 64


@dataclass(slots=True)
class _Waiting:
    """A question, when it was asked, and the arrival of the newest frame it is about (``time.monotonic()``)."""

    question: str
    why: Why
    asked: float
    about: float
    done: "Future[Answered]"


class Stream:
    """Watches a source until it ends or `stop` is called, and answers what `ask` brings.

    Args:
        pipeline: opened; used by nobody else.
        source: opened; closed at the end.
        options: how to watch.
        listeners: called with every event, from the thread that remembers; one that raises is not called again.

    Raises:
        ScoreEdgeError: options that do not fit the bundle.

    Example:
        >>> with Pipeline(Bundle.open("reference"), context=2048) as pipeline:           # doctest: +SKIP
        ...     stream = Stream(pipeline, open_source("synthetic://?steps=64"), StreamOptions(), [print])
        ...     threading.Thread(target=stream.run).start()
        ...     print(stream.ask("how many things moved fast?").result().text)
    """

    def __init__(
        self, pipeline: Pipeline, source: Source, options: StreamOptions, listeners: list[Listener] | None = None
    ) -> None:
        manifest = pipeline.bundle.manifest
        threshold = options.gate_threshold if options.gate_threshold is not None else manifest.vision.gate or 0.0
        self.options, self.source = options, source
        self.perception = Perception(pipeline, options.selector, options.retention, threshold if options.gate else None)
        self.memory = VideoMemory(
            pipeline.model,
            pipeline.sequence,
            pipeline.layout,
            cells=pipeline.model.capabilities.context - _TEXT_CELLS - options.max_tokens,
            window=options.window,
            pinned=options.pinned,
            trained=manifest.language.trained,
        )
        self._fps = manifest.vision.fps if options.fps is None else options.fps
        self._per_step = manifest.vision.frames_per_step
        self._listeners = list(listeners or [])
        self._changed = threading.Condition()
        self._seen: deque[Seen | _Unseen] = deque()
        self._questions: deque[_Waiting] = deque()
        self._answering = threading.Event()
        self._stop_answer = threading.Event()
        self._stopping = False
        self._over = False  # the source has ended and all was seen, if not yet remembered
        self._finished = False
        self._failed: BaseException | None = None
        self._steps = 0
        self._newest: Seen | None = None
        self._next_time = options.every_s
        self._last_surprise = -_COOL_DOWN_S
        self._state = self._reason = ""

    def listen(self, listener: Listener) -> None:
        """Tell this listener too what happens; before `run`."""
        self._listeners.append(listener)

    def ask(self, question: str, why: Why = "asked", about: float | None = None) -> "Future[Answered]":
        """Put a question; from any thread. It is answered when all frames that came before it are remembered.

        Args:
            question: plain text.
            why: who asks.
            about: ``time.monotonic()`` when the newest frame arrived that the question is about; None takes now.

        Returns:
            What the answer will be, also when it fails: then `Answered.error` says why.

        Raises:
            ScoreEdgeError: too many questions wait already, or the stream has ended.
        """
        with self._changed:
            if self._stopping or self._finished:
                raise ScoreEdgeError("the stream has ended", "start it again")
            if len(self._questions) >= MOST_WAITING:
                raise ScoreEdgeError(f"{MOST_WAITING} questions are waiting already", "ask again after an answer")
            now = time.monotonic()
            waiting = _Waiting(question, why, now, now if about is None else about, Future())
            self._questions.append(waiting)
            self._changed.notify_all()
        return waiting.done

    def stop_answer(self) -> bool:
        """Stop the answer that is being given; False when there is none. From any thread, also a signal handler."""
        if not self._answering.is_set() or self._stop_answer.is_set():
            return False
        self._stop_answer.set()
        return True

    def stop(self) -> None:
        """End the stream soon. From any thread, also a signal handler: it takes no lock."""
        self._stopping = True
        self._stop_answer.set()

    def run(self) -> None:
        """Watch until the source ends or `stop`; questions asked before the end are still answered at the end.

        Raises:
            ScoreEdgeError: the source or the encoder failed for good.
        """
        capture = Capture(self.source, self._fps, self._per_step)
        seeing = threading.Thread(target=self._see, args=(capture,), name="vision", daemon=True)
        seeing.start()
        try:
            self._remember_and_answer(capture)
        finally:
            self._stopping = True
            capture.stop(0.5)
            seeing.join(0.5)
            self._refuse_the_rest()
        if self._failed is not None:
            raise self._failed
        if self.source.warning:
            self._tell(Notice(self.source.warning))

    def _see(self, capture: Capture) -> None:
        """The thread that runs the encoder."""
        try:
            while not (self._stopping or capture.ended):
                captured = capture.take(_POLL_S)
                if captured is None:
                    continue
                seen = self._perceive(captured)
                with self._changed:
                    while len(self._seen) >= _MOST_SEEN and not self._stopping:
                        self._changed.wait(_POLL_S)
                    self._seen.append(seen)
                    self._changed.notify_all()
        except BaseException as error:
            self._failed = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _perceive(self, captured: Captured) -> "Seen | _Unseen":
        """What became of a step: whatever is wrong with it costs this step and no other."""
        try:
            return self.perception.see(captured)
        except Exception as error:
            return _Unseen(captured, _words(error))

    def _remember_and_answer(self, capture: Capture) -> None:
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(self._is_work, _POLL_S)
                waiting = self._questions.popleft() if self._may_answer() else None
                seen = self._seen.popleft() if self._seen and waiting is None else None
                finished = self._over and seen is None and waiting is None
                self._changed.notify_all()
            self._watch_the_source()
            if seen is not None:
                self._remember(seen, capture)
            if waiting is not None:
                self._answer(waiting)
            if finished:
                return

    def _is_work(self) -> bool:
        return bool(self._seen or self._over or self._stopping or self._may_answer())

    def _may_answer(self) -> bool:
        if not self._questions or (self._newest is None and not self._over):
            return False
        return not self._seen or self._seen[0].captured.arrived > self._questions[0].about

    def _watch_the_source(self) -> None:
        if self.source.state != self._state:
            self._tell(Notice(self.source.state or "the signal is back"))
            self._state = self.source.state

    def _remember(self, seen: "Seen | _Unseen", capture: Capture) -> None:
        began = time.perf_counter()
        try:
            if isinstance(seen, _Unseen):
                raise ScoreEdgeError(seen.reason)
            keep = self.memory.append(seen.tokens, seen.keep, seen.scores, seen.captured.time_s)
        except Exception as error:
            self._left_out(_words(error))
            return
        self._reason = ""
        seconds = {**seen.seconds, "append": time.perf_counter() - began}
        self._newest = seen
        self._tell(
            StepSeen(
                step=self._steps,
                frame=seen.captured.frames[-1],
                keep=keep,
                encoded=seen.encoded,
                surprise=seen.surprise,
                gap=seen.captured.gap,
                seconds=seconds,
                late_s=time.monotonic() - seen.captured.arrived,
                frames=capture.frames,
                dropped=capture.dropped,
                used=self.memory.used,
                cells=self.memory.cells,
                held=self.memory.steps,
            )
        )
        self._steps += 1
        self._ask_by_itself(seen)

    def _left_out(self, reason: str) -> None:
        """Count a step that is not remembered; the same reason is told once until a step is remembered again."""
        if reason != self._reason:
            self._tell(Notice(f"step {self._steps} is left out: {reason}"))
        self._reason = reason
        self._steps += 1

    def _ask_by_itself(self, seen: Seen) -> None:
        options, time_s = self.options, seen.captured.frames[-1].time_s
        why: Why | None = None
        if options.when_surprised and seen.surprise and time_s - self._last_surprise >= _COOL_DOWN_S:
            why, self._last_surprise = "surprise", time_s
        elif options.every_s and time_s >= self._next_time:
            why, self._next_time = "every", time_s + options.every_s
        if not options.question or why is None:
            return
        with self._changed:
            if any(waiting.why != "asked" for waiting in self._questions):
                return  # the last time is not answered yet
        with contextlib.suppress(ScoreEdgeError):  # people's questions come first
            self.ask(options.question, why, about=seen.captured.arrived)

    def _answer(self, waiting: _Waiting) -> None:
        began = time.monotonic()
        frame = self._newest.captured if self._newest else None
        pieces: list[str] = []
        first, error = 0.0, ""
        self._stop_answer.clear()
        self._answering.set()
        self._tell(AnswerBegan(waiting.question, waiting.why))
        try:
            answer = self.memory.answer(waiting.question, self.options.max_tokens)
            with contextlib.closing(answer):
                for piece in answer:
                    first = first or time.monotonic() - began
                    pieces.append(piece)
                    self._tell(AnswerPiece(waiting.question, piece))
                    if self._stop_answer.is_set() or self._stopping:
                        break
        except Exception as failure:
            error = _words(failure)
        finally:
            self._answering.clear()
        now = time.monotonic()
        answered = Answered(
            question=waiting.question,
            text="".join(pieces),
            why=waiting.why,
            time_s=frame.frames[-1].time_s if frame else 0.0,
            age_s=began - frame.arrived if frame else 0.0,
            source=self.source.state,
            ttft_s=first or now - began,
            waited_s=began - waiting.asked,
            whole_s=now - waiting.asked,
            stopped=self._stop_answer.is_set() or self._stopping,
            error=error,
        )
        waiting.done.set_result(answered)
        self._tell(answered)

    def _refuse_the_rest(self) -> None:
        with self._changed:
            self._finished = True
            rest = list(self._questions)
            self._questions.clear()
        for waiting in rest:
            waiting.done.set_exception(ScoreEdgeError("the stream ended before this question was answered"))

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception as error:
                self._listeners.remove(listener)
                self._tell(Notice(_words(error)))


@dataclass(frozen=True, slots=True)
class _Unseen:
    """A step that could not be perceived, and why."""

    captured: Captured
    reason: str


def _words(error: Exception) -> str:
    """An error for people; one that nobody foresaw with its name."""
    return error.message if isinstance(error, ScoreEdgeError) else f"{type(error).__name__}: {error}"
