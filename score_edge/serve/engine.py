"""The one thread that answers chat requests, and the clips whose kept tokens it holds prefilled."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from score_edge.core import Frame, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Mark, Question, Sequence
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling
from score_edge.runtime.live.questions import StreamEndedError
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.serve.media import Clip


class LateError(ScoreEdgeError):
    """A request took longer than it may."""


class GoneError(ScoreEdgeError):
    """Whoever asked is there no more."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a request asks.

    Attributes:
        clip: its frames; None for text alone.
        camera: that is asked in place of a clip, see `Live`.
        selector, retention: None takes the server's.
        full_encoder: encode every cell of every frame.
        max_tokens: None lets the answer fill the context.
    """

    clip: Clip | None
    question: str
    selector: str | None = None
    retention: float | None = None
    max_tokens: int | None = None
    sampling: Sampling = GREEDY
    camera: str | None = None
    full_encoder: bool = False


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """An answer and what it cost.

    Attributes:
        prompt_tokens: of the whole prompt; cached_tokens of them were prefilled by an earlier request.
        kept, total: visual tokens.
        ttft_s: from the start of the work to the first words.
        seconds: per stage.
    """

    text: str
    ended: Ended
    prompt_tokens: int
    cached_tokens: int
    kept: int
    total: int
    ttft_s: float
    seconds: dict[str, float]


@dataclass(slots=True, eq=False)
class Job:
    """A request that waits or is answered.

    Attributes:
        on_text: called with every piece of the answer, from the engine's thread.
        until: ``time.monotonic()`` at which it is given up.
        gone: set when nobody waits for it any more.
        frame_age_s: of the newest frame that a camera's answer is about, from the first words on.
    """

    request: GenerationRequest
    on_text: Callable[[str], None]
    until: float
    gone: threading.Event = field(default_factory=threading.Event)
    frame_age_s: float | None = None
    done: "Future[GenerationResult]" = field(default_factory=Future)

    def check(self) -> None:
        """Raise when there is no reason to go on."""
        if self.gone.is_set():
            raise GoneError("nobody waits for this answer any more")
        if time.monotonic() > self.until:
            raise LateError("the request took longer than the server allows", "ask for less, or raise --deadline-s")


@dataclass(slots=True)
class _Held:
    """A place of the language model, and the clip that lies prefilled in it."""

    sequence: Sequence
    key: tuple[object, ...] | None = None
    mark: Mark | None = None
    tail: str = ""
    kept: int = 0
    total: int = 0


class Engine:
    """Answers one request after the other.

    Args:
        pipeline: opened; others may use it too.
        sequences: of its language model, for this engine alone: as many clips stay prefilled, the least recently asked
            about leaves first.
        selector, retention: None takes the bundle's.
    """

    def __init__(
        self, pipeline: Pipeline, sequences: list[Sequence], selector: str | None, retention: float | None
    ) -> None:
        self.pipeline = pipeline
        self._selector = selector
        self._retention = pipeline.bundle.manifest.selector.retention if retention is None else retention
        pipeline.selector(selector)  # refuses an unknown one here
        self._held = [_Held(sequence) for sequence in sequences]  # most recently used last
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Let a job wait for its turn."""
        self._jobs.put(job)

    def close(self) -> None:
        """Finish the job that is being answered and end; what waits behind it is refused."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._finish(job)
        with contextlib.suppress(queue.Empty):
            while job := self._jobs.get_nowait():
                self._finish(job)

    def _finish(self, job: Job) -> None:
        if not job.done.set_running_or_notify_cancel():
            return
        try:
            if self._closing:
                raise StreamEndedError("the server is stopping")
            result = self._answer(job)
        except BaseException as error:
            job.done.set_exception(error)
        else:
            job.done.set_result(result)

    def _answer(self, job: Job) -> GenerationResult:
        job.check()
        began, watch, request = time.perf_counter(), Stopwatch(), job.request
        held, cached = self._place(job, watch)
        sequence = held.sequence
        with watch.stage("prefill"):
            sequence.append(self._question(held, request))
        prompt = sequence.here
        room = self.pipeline.model.capabilities.room(prompt, request.max_tokens)
        pieces, first = list[str](), 0.0
        answer = sequence.generate(room, request.sampling)
        with watch.stage("generate"), contextlib.closing(answer):
            while True:
                job.check()
                try:
                    piece = next(answer)
                except StopIteration as stop:
                    ended: Ended = stop.value
                    break
                first = first or time.perf_counter() - began
                pieces.append(piece)
                job.on_text(piece)
        whole = time.perf_counter() - began
        text = "".join(pieces)
        return GenerationResult(text, ended, prompt.cells, cached, held.kept, held.total, first or whole, watch.seconds)

    def _question(self, held: _Held, request: GenerationRequest) -> Question:
        layout = self.pipeline.layout
        return layout.text(request.question) if request.clip is None else layout.question(held.tail, request.question)

    def _place(self, job: Job, watch: Stopwatch) -> tuple[_Held, int]:
        """A place that ends behind the clip of a request, and how many of its cells were there already."""
        request = job.request
        retention = self._retention if request.retention is None else request.retention
        key = (
            ("text",)
            if request.clip is None
            else (
                request.clip.key,
                request.selector or self._selector,
                retention,
                request.full_encoder,
            )
        )
        held = next((held for held in self._held if held.key == key), None)
        if held is not None and held.mark is not None and request.clip is not None:
            held.sequence.rollback(held.mark)
            self._used(held)
            return held, held.mark.cells
        held = held or next((held for held in self._held if held.key is None), self._held[0])
        held.key = None  # until all of it is there
        self._used(held)
        held.sequence.clear()
        held.kept = held.total = 0
        if request.clip is not None:
            self._watch(held, job, retention, watch)
        held.mark, held.key = held.sequence.mark(), key
        return held, 0

    def _used(self, held: _Held) -> None:
        self._held.remove(held)
        self._held.append(held)

    def _watch(self, held: _Held, job: Job, retention: float, watch: Stopwatch) -> None:
        pipeline, request = self.pipeline, job.request
        assert request.clip is not None  # for mypy
        selector = pipeline.selector(request.selector or self._selector)
        clip = pipeline.encode(_checked(request.clip.read(), job), watch, full=request.full_encoder)
        with watch.stage("select"):
            keep = pipeline.select(clip.tokens, selector, retention)
        prompt = pipeline.layout.clip(KeptTokens.gather(clip.tokens, keep, pipeline.layout.grid), clip.times)
        with watch.stage("prefill"):
            held.sequence.append(*prompt.segments)
        held.tail, held.kept, held.total = prompt.tail, int(keep.sum()), keep.size


def _checked(frames: Iterator[Frame], job: Job) -> Iterator[Frame]:
    for frame in frames:
        job.check()
        yield frame
