"""A stream beside one that remembers the newest steps and nothing else, asked the same at the same moments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.accuracy import ANSWER_TOKENS
from score_edge.evaluation.intervals import over_clips
from score_edge.reference import world
from score_edge.reference.moments import ABOUT, About, TimedQuestion, questions_after_events
from score_edge.runtime.live.base import Memory
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.live.perception import Perception
from score_edge.runtime.live.query_memory import QueryMemory
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured
from score_edge.runtime.threads import usable_cpus
from score_edge.workers import worker_pool

_CONTEXT = 4096
_FOR_TEXT = 512
_WINDOW = 64  # steps, of ours


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Which memories are compared, and on what.

    Attributes:
        clips: each a stream of its own.
        steps: of a clip.
        newest: steps that the other memory holds.
        retention: of ours.
        selector: of ours; None takes the bundle's.
        seed: of the world.
        about: what is asked about.

    Raises:
        ScoreEdgeError: no clip, or clips that are not longer than what the other memory holds.
    """

    clips: int
    steps: int = 32
    newest: int = 4
    retention: float = 0.125
    selector: str | None = None
    seed: int = world.TEST_SEED
    about: tuple[About, ...] = ABOUT

    def __post_init__(self) -> None:
        if self.clips < 1 or not 0 < self.newest < self.steps:
            raise ScoreEdgeError(
                f"{self.clips} clips of {self.steps} steps beside a memory of {self.newest} compare nothing",
                "take at least one clip, longer than the memory of the newest steps",
            )


@dataclass(frozen=True, slots=True)
class MemoryAnswers:
    """What both memories answered to one question.

    Attributes:
        clip: its number.
        right: of ours and of the other.
        tokens: that each held; ``score-query`` holds all of the window, and prefills `retention` of them.
        first_s: seconds from the question to the first word.
    """

    clip: int
    question: TimedQuestion
    right: tuple[bool, bool]
    tokens: tuple[int, int]
    first_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Shares of right answers, ours less that of the newest steps, and its 95 % interval, see `over_clips`."""

    asked: int
    ours: float
    newest: float
    difference: float
    low: float
    high: float


def compare_memories(
    bundle: str, plan: MemoryPlan, *, on_clip: Callable[[], None] = lambda: None
) -> list[MemoryAnswers]:
    """Watch every clip both ways and ask, on every CPU this process may use.

    Args:
        bundle: folder, or "reference".
        plan: what to compare.
        on_clip: called after every clip.
    """
    Bundle.open(bundle)
    results: list[MemoryAnswers] = []
    with worker_pool(usable_cpus(), _open_worker, bundle, plan) as pool:
        for found in pool.map(_watch, range(plan.clips), chunksize=1):
            results.extend(found)
            on_clip()
    return results


def difference(asked: Sequence[MemoryAnswers]) -> Difference:
    """Of some of the questions, one at least."""
    gained = [float(each.right[0]) - float(each.right[1]) for each in asked]
    ours, newest = (sum(each.right[arm] for each in asked) / len(asked) for arm in (0, 1))
    return Difference(len(asked), ours, newest, ours - newest, *over_clips(asked, gained, -1.0))


_worker: tuple[MemoryPlan, Pipeline]


def _open_worker(bundle: str, plan: MemoryPlan) -> None:
    global _worker
    opened = Bundle.open(bundle, checksums=False)
    _worker = plan, Pipeline(opened, context=_CONTEXT, threads=1, provider="cpu", sequences=2)


def _watch(index: int) -> list[MemoryAnswers]:
    """One clip: seen once, remembered both ways."""
    plan, pipeline = _worker
    clip = world.make_clip(plan.seed, index, plan.steps)
    questions = [each for each in questions_after_events(clip, plan.newest) if each.about in plan.about]
    if not questions:
        return []
    frames, results, second = clip.frames(), list[MemoryAnswers](), pipeline.model.sequence()
    options, cells = StreamOptions(selector=plan.selector), _CONTEXT - _FOR_TEXT
    perception = Perception(pipeline, options.select_by, plan.retention)
    trained = pipeline.bundle.manifest.language.trained
    try:
        ours: Memory
        ours, newest = (
            VideoMemory(pipeline.model, sequence, pipeline.layout, cells=cells, window=window, trained=trained)
            for sequence, window in ((pipeline.sequence, _WINDOW), (second, plan.newest))
        )
        if knowing := options.by_question:
            ours = QueryMemory(pipeline, pipeline.sequence, knowing, plan.retention, cells=cells, window=_WINDOW)
        for step in range(1, max(each.step for each in questions) + 1):
            shown = frames[(step - 1) * world.FRAMES_PER_STEP : step * world.FRAMES_PER_STEP]
            seen = perception.see(Captured(shown, False, 0.0))
            ours.append(seen.tokens, seen.keep, seen.scores, seen.captured.time_s)
            newest.append(seen.tokens, np.ones_like(seen.keep), seen.scores, seen.captured.time_s)
            for question in (each for each in questions if each.step == step):
                (mine, my_s), (theirs, their_s) = _ask(ours, question.text), _ask(newest, question.text)
                right = mine == question.answer, theirs == question.answer
                results.append(MemoryAnswers(index, question, right, (ours.tokens, newest.tokens), (my_s, their_s)))
    finally:
        second.close()
        pipeline.sequence.clear()
    return results


def _ask(memory: Memory, question: str) -> tuple[str, float]:
    """The answer, and seconds to its first word."""
    began, first, pieces = time.perf_counter(), 0.0, list[str]()
    for piece in memory.answer(question, ANSWER_TOKENS):
        first = first or time.perf_counter() - began
        pieces.append(piece)
    return "".join(pieces).strip().lower(), first or time.perf_counter() - began
