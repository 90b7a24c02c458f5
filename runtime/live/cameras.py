"""Cameras of a stream: what belongs to each of them, and what they share."""

import re
import threading
import time
from collections.abc import Generator
from typing import NamedTuple

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import ContextFullError, Sequence
from score_edge.runtime.language.sampling import Ended, Sampling
from score_edge.runtime.live.base import Memory
from score_edge.runtime.live.events import StepSeen, Why
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.live.perception import Perception, Seen, stream_budget
from score_edge.runtime.live.query_memory import QueryMemory
from score_edge.runtime.live.questions import Waiting
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.capture import Capture, Captured

_NAME = re.compile(r"\w[\w.-]*")
_TEXT_CELLS = 512
"""Of the context, for the prompt and a question; the longest answer comes on top."""
_COOL_DOWN_S = 10.0


class Camera:
    """One source with its own seeing, memory and counters.

    Args:
        name: empty for the only one.
        source: opened.
        perception, memory: of this camera alone.
        sequence: the memory's.
        every_s: when its first question by itself is due.

    Attributes:
        capture: once the stream runs.
        newest: the last step that is remembered.
        steps: that were seen, those left out included.
        state: of the source, as last told.
        reason: why the last step was left out; empty when it was not.
        ended: its source gives nothing more.
        over: the same, and all of it was remembered.
        gone: it was removed.
        waiting: of its steps that were seen, those not remembered yet.
        failed: why its source ended, if that was no good end.
    """

    def __init__(
        self, name: str, source: Source, perception: Perception, memory: Memory, sequence: Sequence, every_s: float
    ) -> None:
        self.name, self.source, self.perception, self.memory, self.sequence = name, source, perception, memory, sequence
        self.capture: Capture | None = None
        self.newest: Seen | None = None
        self.steps = 0
        self.state = self.reason = ""
        self.ended = self.over = self.gone = False
        self.waiting = 0
        self.failed: BaseException | None = None
        self._next_time, self._last_surprise = every_s, -_COOL_DOWN_S

    @property
    def due(self) -> float | None:
        """Since when something of it waits for the encoder; None while nothing does."""
        return None if self.ended or self.gone or self.capture is None else self.capture.due

    def remember(self, seen: Seen) -> StepSeen:
        """Take a step into the memory.

        Raises:
            ScoreEdgeError: see `VideoMemory.append`.
        """
        began = time.perf_counter()
        keep = self.memory.append(seen.tokens, seen.keep, seen.scores, seen.captured.time_s)
        self.newest = seen
        return StepSeen(
            step=self.steps,
            frame=seen.captured.frames[-1],
            keep=keep,
            encoded=seen.encoded,
            surprise=seen.surprise,
            gap=seen.captured.gap,
            seconds={**seen.seconds, "append": time.perf_counter() - began},
            late_s=time.monotonic() - seen.captured.arrived,
            frames=self.capture.frames if self.capture else 0,
            dropped=self.capture.dropped if self.capture else 0,
            used=self.memory.used,
            cells=self.memory.cells,
            held=self.memory.steps,
            camera=self.name,
            times_usual=seen.times_usual,
        )

    def called(self, text: str) -> str:
        """A notice about it."""
        return f"{self.name}: {text}" if self.name else text

    def asks_by_itself(self, seen: Seen, options: StreamOptions) -> Why | None:
        """Why the stream's own question is due after a step: ``surprise``, ``every`` or None."""
        time_s = seen.captured.frames[-1].time_s
        if options.when_surprised and seen.surprise and time_s - self._last_surprise >= _COOL_DOWN_S:
            self._last_surprise = time_s
            return "surprise"
        if options.every_s and time_s >= self._next_time:
            self._next_time = time_s + options.every_s
            return "every"
        return None


class Asked(NamedTuple):
    """Cameras that a question is put to."""

    cameras: list[Camera]

    @property
    def time_s(self) -> float:
        """Of the newest frame that is remembered."""
        return max((camera.newest.captured.frames[-1].time_s for camera in self.cameras if camera.newest), default=0.0)

    @property
    def arrived(self) -> float | None:
        """When the newest frame of each was there, by ``time.monotonic()``; None before the first."""
        return min((camera.newest.captured.arrived for camera in self.cameras if camera.newest), default=None)

    @property
    def state(self) -> str:
        """What sources without a signal are doing, or why steps are left out."""
        states = [(camera, camera.source.state or camera.reason) for camera in self.cameras]
        return "; ".join(camera.called(state) if len(states) > 1 else state for camera, state in states if state)


class Cameras:
    """All of a stream: one encoder, one language model with a sequence for each, one budget.

    Changed by the thread that remembers, or while none runs; other threads may look at any time.

    Args:
        pipeline: opened.
        options: how to watch.

    Attributes:
        all: by name, in the order in which they were added; replaced by another at each change.
        arrived: told when a frame arrives or a source ends.
    """

    def __init__(self, pipeline: Pipeline, options: StreamOptions) -> None:
        self._pipeline, self._options = pipeline, options
        vision = pipeline.bundle.manifest.vision
        self._fps, self._per_step = vision.fps if options.fps is None else options.fps, vision.frames_per_step
        self._budget = stream_budget(pipeline, options.select_by, options.retention)
        self._free = [pipeline.sequence]  # which stays the pipeline's
        self.all: dict[str, Camera] = {}
        self.arrived = threading.Condition()
        self._stopping = False

    def add(self, name: str, source: Source) -> Camera:
        """Make room for one more.

        Raises:
            ScoreEdgeError: the name is taken or unfit, all sequences are in use, options that do not fit the bundle.
        """
        if name in self.all:
            raise ScoreEdgeError(f"there is a camera {name!r} already", "give each a name of its own")
        if self.all and not (name and all(self.all)):
            raise ScoreEdgeError("one of several cameras has no name", "name them all: --source front=rtsp://...")
        if name and not _NAME.fullmatch(name):
            raise ScoreEdgeError(f"{name!r} is no name for a camera", "use letters, digits, '.', '_' and '-'")
        options, pipeline = self._options, self._pipeline
        sequence = self._take_sequence(f"camera {name!r}")
        try:
            memory = self._memory(sequence)
            perception = Perception(pipeline, options.select_by, options.retention, self._budget)
        except BaseException:
            self._give_back(sequence)
            raise
        camera = Camera(name, source, perception, memory, sequence, options.every_s)
        self.all = {**self.all, name: camera}
        return camera

    def start(self, camera: Camera) -> None:
        """Let its frames come in.

        Raises:
            ScoreEdgeError: no source can be sampled so.
        """
        camera.capture = Capture(camera.source, self._fps, self._per_step, self.arrived)

    def asked(self, name: str | None) -> Asked:
        """One camera, if it is still there, or all of them."""
        return Asked([camera for camera in self.all.values() if name in (None, camera.name)])

    def wait_for(self, waiting: Waiting) -> bool:
        """Whether the next steps wait until a question is answered: it is the stream's own, and no source is live."""
        return waiting.why != "asked" and not any(camera.source.live for camera in self.all.values())

    def drop(self, camera: Camera) -> None:
        """Give back what a camera took; its source is not closed by this."""
        self.all = {name: other for name, other in self.all.items() if other is not camera}
        camera.perception.close()
        self._give_back(camera.sequence)

    def stop(self, timeout_s: float) -> None:
        """Close the sources; decoders that wait for the network are left behind after some time, for all together."""
        end, self._stopping = time.monotonic() + timeout_s, True
        started = [camera.capture for camera in self.all.values() if camera.capture]
        with self.arrived:
            self.arrived.notify_all()
        for capture in started:
            capture.stop(0)
        for capture in started:
            capture.stop(max(0.0, end - time.monotonic()))

    def close(self) -> None:
        """Give all sequences back; memories but the pipeline's own are lost."""
        for camera in self.all.values():
            if camera.sequence is not self._pipeline.sequence:
                camera.sequence.close()

    def take(self, timeout_s: float, most_waiting: int) -> tuple[Camera, Captured | None] | None:
        """Of all steps that wait the one whose frames are oldest, or that a source has ended; None: neither in time.

        Where `most_waiting` steps of all cameras that were seen wait to be remembered, each may have its part of them.
        """
        with self.arrived:
            self.arrived.wait_for(lambda: self._next(most_waiting) is not None or self._stopping, timeout_s)
        # Graphs have no batch axis: steps of several cameras cannot be encoded in one call.
        camera = self._next(most_waiting)
        if camera is None or camera.capture is None:
            return None
        try:
            captured = camera.capture.take(0)
        except BaseException as error:
            camera.failed, captured = error, None
        camera.ended = captured is None
        return camera, captured

    def answer(self, asked: Asked, question: str, max_tokens: int, sampling: Sampling) -> Generator[str, None, Ended]:
        """The answer of one camera, or of several from one prompt, piece by piece."""
        if len(asked.cameras) == 1:
            return (yield from asked.cameras[0].memory.answer(question, max_tokens, sampling))
        held = ((camera.name, camera.memory.clip(question)) for camera in asked.cameras)
        clips = [(name, steps) for name, steps in held if steps]
        if not clips:
            raise ScoreEdgeError("nothing has been seen yet", "ask when the first frames are there")
        layout = self._pipeline.layout
        prompt = layout.clips(clips)
        words = layout.question(prompt.tail, question)
        sequence = self._take_sequence("a question to all cameras")
        try:
            sequence.append(*prompt.segments, words)
            room = self._pipeline.model.capabilities.room(sequence.here, max_tokens)
            return (yield from sequence.generate(room, sampling))
        except ContextFullError as error:
            raise ContextFullError(
                f"all cameras together: {error.message}; ask one of them by its name, {clips[0][0]} or another",
                "or take a larger context (--context)",
            ) from error
        finally:
            self._give_back(sequence)

    def _memory(self, sequence: Sequence) -> Memory:
        options, pipeline = self._options, self._pipeline
        cells = pipeline.model.capabilities.context - _TEXT_CELLS - options.max_tokens
        if options.by_question:
            retention = self._budget.retention
            return QueryMemory(pipeline, sequence, options.by_question, retention, cells=cells, window=options.window)
        return VideoMemory(
            pipeline.model,
            sequence,
            pipeline.layout,
            cells=cells,
            window=options.window,
            pinned=options.pinned,
            trained=pipeline.bundle.manifest.language.trained,
        )

    def _next(self, most_waiting: int) -> Camera | None:
        cameras = list(self.all.values())
        each = max(1, most_waiting // max(1, len(cameras)))
        waiting = [(due, camera) for camera in cameras if camera.waiting < each and (due := camera.due) is not None]
        return min(waiting, key=lambda found: found[0])[1] if waiting else None

    def _take_sequence(self, wanted_for: str) -> Sequence:
        if self._free:
            return self._free.pop()
        try:
            return self._pipeline.model.sequence()
        except ScoreEdgeError as error:
            raise ScoreEdgeError(
                f"{wanted_for} needs a sequence of the language model, and all are in use",
                "open the pipeline with more sequences: one per camera, and one to ask all of them at once",
            ) from error

    def _give_back(self, sequence: Sequence) -> None:
        if sequence is self._pipeline.sequence:
            sequence.clear()
            self._free.append(sequence)
        else:
            sequence.close()
