"""The loop that never ends: see, remember, answer. Whoever wants to know what happens listens to its events.

Two threads work beside the capture threads: one sees (encoder), one remembers and answers (language model). During an
answer steps of the camera that was asked wait for its end, those of the others for its next word; when too many wait,
seeing waits, and then the newest frame of each camera wins.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from score_edge.errors import ScoreEdgeError, did_you_mean, error_text
from score_edge.runtime.language.sampling import Sampling
from score_edge.runtime.live.answering import give_answer
from score_edge.runtime.live.base import Memory
from score_edge.runtime.live.cameras import Camera, Cameras
from score_edge.runtime.live.events import Answered, Listener, Listeners, Notice, Why
from score_edge.runtime.live.jobs import Jobs
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.live.perception import Perception, Seen, Unseen
from score_edge.runtime.live.questions import MOST_WAITING, Questions, StreamEndedError, Waiting, refuse
from score_edge.runtime.live.seen_steps import SeenSteps, Step
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.background import start_reader
from score_edge.runtime.sources.base import Source
from score_edge.runtime.turns import STEPS

__all__ = ["MOST_WAITING", "Stream", "StreamOptions"]

_MOST_SEEN = 32
_POLL_S = 0.2
_UNANSWERED = "the stream ended before this question was answered"


class Stream:
    """Watches sources until they end or `stop` is called, and answers what `ask` brings.

    Args:
        pipeline: opened, with a sequence for each camera and one more to ask all of them at once; used by nobody else.
        source: opened, one, or several by name; closed at the end.
        options: how to watch.
        listeners: called with every event, from the thread that remembers; one that raises is not called again.

    Raises:
        ScoreEdgeError: options that do not fit the bundle, more cameras than sequences.

    Example:
        >>> with Pipeline(Bundle.open("reference"), context=2048) as pipeline:           # doctest: +SKIP
        ...     stream = Stream(pipeline, open_source("synthetic://?steps=64"), StreamOptions(), [print])
        ...     threading.Thread(target=stream.run).start()
        ...     print(stream.ask("how many things moved fast?").result().text)
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source | Mapping[str, Source],
        options: StreamOptions,
        listeners: list[Listener] | None = None,
    ) -> None:
        self.options = options
        self._turn = pipeline.turn
        self._cameras = Cameras(pipeline, options)
        self._listeners = Listeners(listeners or [])
        self._tell = self._listeners.tell
        self._changed = threading.Condition()
        self._seen = SeenSteps()
        self._questions = Questions()
        self._jobs = Jobs(self._changed)
        self._answering = threading.Event()
        self._stop_answer = threading.Event()
        self._stopping = False
        self._blind = False  # nobody sees any more
        self._finished = False
        self._failed: BaseException | None = None
        try:
            for name, each in {"": source}.items() if isinstance(source, Source) else source.items():
                self._cameras.add(name, each)
        except BaseException:
            self._cameras.close()
            raise

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras; the empty one where the only one has none."""
        return list(self._cameras.all)

    @property
    def memory(self) -> Memory:
        """Of the first camera."""
        return self._first.memory

    @property
    def perception(self) -> Perception:
        """Of the first camera."""
        return self._first.perception

    @property
    def _first(self) -> Camera:
        return next(iter(self._cameras.all.values()))

    def listen(self, listener: Listener) -> None:
        """Tell this listener too what happens; before `run`."""
        self._listeners.add(listener)

    def add(self, name: str, source: Source) -> None:
        """Watch one more camera; from any thread, also while the stream runs.

        Args:
            name: of letters, digits, ``.``, ``_`` and ``-``.
            source: opened; closed when it is removed or the stream ends.

        Raises:
            ScoreEdgeError: the name is taken, all sequences of the model are in use, the stream has ended.
        """

        def job() -> None:
            camera = self._cameras.add(name, source)
            if self._jobs.thread:
                try:
                    self._cameras.start(camera)
                except BaseException:
                    self._cameras.drop(camera)
                    raise

        self._jobs.do(job)

    def remove(self, name: str) -> None:
        """Watch a camera no longer; its place can be taken by another. From any thread.

        A stream without a camera goes on until another is added, or `stop`. Questions to it that wait are refused.

        Raises:
            ScoreEdgeError: there is no such camera.
        """
        camera = self._find(name)
        with self._changed:
            if camera.gone:
                return
            camera.gone = True
        if camera.capture:
            camera.capture.stop(0.5)
        else:
            camera.source.close()

        def job() -> None:
            with self._changed:
                self._seen.drop(camera)
                refused = self._questions.take_all(lambda waiting: waiting.camera == name)
                self._changed.notify_all()
            self._cameras.drop(camera)
            refuse(refused, ScoreEdgeError(f"camera {name} was removed before this question was answered"))

        self._jobs.do(job, later=self._answering.is_set())

    def ask(
        self,
        question: str,
        why: Why = "asked",
        about: float | None = None,
        camera: str | None = None,
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        on_text: Callable[[str], None] = lambda piece: None,
    ) -> "Future[Answered]":
        """Put a question; from any thread. It is answered when all steps that were encoded before it are remembered;
        one that is in the encoder is not waited for (`Answered.age_s`).

        Args:
            question: plain text.
            why: who asks.
            about: ``time.monotonic()`` when the newest frame arrived that the question is about; None takes now.
            camera: its name; None asks the only one, or all of them in one prompt.
            max_tokens, sampling: of the answer; None takes the stream's.
            on_text: told every piece of it, from the thread that answers; what it raises ends the answer.

        Returns:
            What the answer will be, also when it fails: then `Answered.error` says why. Cancelled before the answer
            began, the question is not put.

        Raises:
            ScoreEdgeError: there is no such camera.
            QueueFullError: too many questions wait already.
            StreamEndedError: the stream has ended.
        """
        if camera is not None:
            self._find(camera)
        elif len(self.cameras) == 1:
            (camera,) = self.cameras
        with self._changed:
            if self._stopping or self._finished:
                raise StreamEndedError("the stream has ended", "start it again")
            now = time.monotonic()
            how = max_tokens or self.options.max_tokens, sampling or self.options.sampling, on_text
            waiting = Waiting(question, why, camera, now, now if about is None else about, Future(), *how)
            self._questions.put(waiting)
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
        """Watch until all sources have ended or `stop`; questions asked before the end are still answered at the end.

        Raises:
            ScoreEdgeError: the only source, all sources or the encoder failed for good.
        """
        self._jobs.thread = threading.current_thread()
        seeing = threading.Thread(target=self._see, name="vision", daemon=True)
        try:
            for camera in self._cameras.all.values():
                self._cameras.start(camera)
            start_reader(seeing, self.stop)
            self._remember_and_answer()
        finally:
            self._stopping = True
            self._refuse_the_rest()
            self._cameras.stop(0.5)
            if seeing.ident:
                seeing.join(0.5)
            self._cameras.close()
        cameras = list(self._cameras.all.values())
        failures = [camera.failed for camera in cameras if camera.failed is not None]
        if self._failed is not None:
            raise self._failed
        if failures and len(failures) == len(cameras):
            raise failures[0]
        for camera in cameras:
            if camera.source.warning:
                self._notice(camera, camera.source.warning)

    def _find(self, name: str) -> Camera:
        cameras = self._cameras.all
        if name not in cameras:
            raise ScoreEdgeError(f"there is no camera {name!r}", did_you_mean(name, cameras))
        return cameras[name]

    def _see(self) -> None:
        """The thread that runs the encoder."""
        try:
            while not self._stopping:
                found = self._cameras.take(_POLL_S, _MOST_SEEN)
                if found is None:
                    continue
                camera, captured = found
                with self._turn.weighing(STEPS):
                    seen = None if captured is None else camera.perception.try_to_see(captured)
                with self._changed:
                    if not camera.gone:
                        self._seen.put(camera, seen)
                    self._changed.notify_all()
        except BaseException as error:
            self._failed = error
        finally:
            with self._changed:
                self._blind = True
                self._changed.notify_all()

    def _remember_and_answer(self) -> None:
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(self._is_work, _POLL_S)
                job = self._jobs.next()
                waiting = None if job else self._questions.take(self._may_answer)
                found = None if waiting or job else self._next_seen()
                finished = self._is_over() and not (job or waiting or found)
                self._changed.notify_all()
            self._watch_the_sources()
            if job is not None:
                job()
            elif found is not None:
                self._remember(*found)
            elif waiting is not None:
                self._answer(waiting)
            elif finished:
                return

    def _next_seen(self, but: Camera | None = None) -> Step | None:
        if found := self._seen.take(but):
            with self._cameras.arrived:  # there is room for another
                self._cameras.arrived.notify_all()
        return found

    def _catch_up(self, but: Camera | None = None) -> None:
        """Remember what waits now, of all cameras `but` one; of a file, which waits, up to its next question."""
        for _ in range(len(self._seen)):
            with self._changed:
                found = None if self._questions.first(self._cameras.wait_for) else self._next_seen(but)
            if found:
                self._remember(*found)

    def _is_over(self) -> bool:
        cameras = self._cameras.all.values()  # where there are none, one may be added
        return self._blind or (bool(cameras) and all(camera.over for camera in cameras))

    def _is_work(self) -> bool:
        waits = self._seen or self._jobs or self._stopping
        return bool(waits or self._is_over() or self._questions.first(self._may_answer))

    def _may_answer(self, waiting: Waiting) -> bool:
        """All steps that were encoded before the question are remembered; nobody waits for the first step of a camera
        that gives none."""
        asked = self._cameras.asked(waiting.camera).cameras
        for camera in asked:
            lost = camera.over or self._blind or camera.reason or (len(asked) > 1 and camera.source.state)
            if camera.newest is None and not lost:
                return False
            if any(seen.captured.arrived <= waiting.about for seen in self._seen.of(camera)):
                return False
        return True

    def _watch_the_sources(self) -> None:
        for camera in self._cameras.all.values():
            state = camera.source.state  # which its own thread changes
            if state != camera.state:
                camera.state = state
                self._notice(camera, state or "the signal is back")

    def _remember(self, camera: Camera, seen: "Seen | Unseen | None") -> None:
        if seen is None:
            self._end_of(camera)
            return
        try:
            if isinstance(seen, Unseen):
                raise ScoreEdgeError(seen.reason)
            with self._turn.weighing(STEPS):
                event = camera.remember(seen)
        except Exception as error:
            self._left_out(camera, error_text(error))
            return
        camera.reason = ""
        self._tell(event)
        camera.steps += 1
        self._ask_by_itself(camera, seen)

    def _end_of(self, camera: Camera) -> None:
        """Its source gives nothing more; the others go on."""
        camera.over = True
        if len(self._cameras.all) > 1:
            self._notice(camera, error_text(camera.failed) if camera.failed else "the source has ended")

    def _left_out(self, camera: Camera, reason: str) -> None:
        """Count a step that is not remembered; the same reason is told once until a step is remembered again."""
        if reason != camera.reason:
            self._notice(camera, f"step {camera.steps} is left out: {reason}")
        camera.reason = reason
        camera.steps += 1

    def _ask_by_itself(self, camera: Camera, seen: Seen) -> None:
        why = camera.asks_by_itself(seen, self.options)
        if not self.options.question or why is None:
            return
        with self._changed:
            mine = self._questions.first(lambda waiting: waiting.why != "asked" and waiting.camera == camera.name)
        if mine is None:  # else the last time is not answered yet
            with contextlib.suppress(ScoreEdgeError):  # people's questions come first
                self.ask(self.options.question, why, about=seen.captured.arrived, camera=camera.name)

    def _answer(self, waiting: Waiting) -> None:
        if not waiting.done.set_running_or_notify_cancel():
            return
        self._stop_answer.clear()
        self._answering.set()
        try:
            answered = give_answer(waiting, self._cameras, self._tell, self._is_stopped, self._catch_up)
        except BaseException:
            waiting.done.set_exception(StreamEndedError(_UNANSWERED))
            raise
        finally:
            self._answering.clear()
        waiting.done.set_result(answered)
        self._tell(answered)
        self._catch_up()  # or many questions in a row would keep it from seeing

    def _is_stopped(self) -> bool:
        return self._stop_answer.is_set() or self._stopping

    def _refuse_the_rest(self) -> None:
        with self._changed:
            self._finished = True
            rest = self._questions.take_all(lambda waiting: True)
        refuse(rest, StreamEndedError(_UNANSWERED))
        self._jobs.refuse(StreamEndedError("the stream has ended", "start it again"))

    def _notice(self, camera: Camera, text: str) -> None:
        self._tell(Notice(camera.called(text), camera.name))
