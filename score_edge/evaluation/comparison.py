"""Ask a question about a clip: once or several times, pruned, and if wanted unpruned beside it."""

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from score_edge.core import Answer, Frame, Mask
from score_edge.runtime.language.sampling import GREEDY, Sampling
from score_edge.runtime.pipeline import EncodedClip, Pipeline
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.open_source import sample_clip
from score_edge.selection.registry import Selector

UNPRUNED = "all"
STAGES = {
    "read": "read video",
    "preprocess": "preprocess",
    "encode": "encoder",
    "select": "selection",
    "prefill": "prefill",
    "ttft": "first token (TTFT)",
    "generate": "decode",
    "whole": "whole ask",
}
"""The times of `Timings`, as people read them."""

COMPARED = ("prefill", "ttft", "whole")
"""Where pruning saves time; the stages before are the same work."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one question and what the model saw for it.

    Attributes:
        answer: of the median run by prefill time.
        retention: share of the visual tokens that was kept; 1 where nothing was dropped.
        keep: (T, N) bool.
        encoded: (T, N) bool, the cells that were encoded; the others kept their tokens.
        frames: the newest frame of each step.
    """

    answer: Answer
    selector: str
    retention: float
    keep: Mask
    encoded: Mask
    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Pruned beside unpruned, in interleaved runs.

    Attributes:
        pruned, unpruned: the runs with the median prefill.
        seconds: (pruned, unpruned) median over the runs, of every stage.
        runs: how many of each.
    """

    pruned: Reply
    unpruned: Reply
    seconds: dict[str, tuple[float, float]]
    runs: int

    @property
    def speedup(self) -> dict[str, float]:
        """Unpruned over pruned, of prefill, ttft and whole."""
        return {stage: self.seconds[stage][1] / self.seconds[stage][0] for stage in COMPARED}


def clip_reader(
    pipeline: Pipeline, uri: str | Path, steps: int, on_progress: Callable[[float], None] = lambda share: None
) -> Callable[[], EncodedClip]:
    """A way to read and encode a clip again and again: at most `steps` encoder steps, spread over the whole of it.

    What can be read only once, a camera or a pipe, is encoded once. `on_progress` gets the share that was read, 0..1.
    """
    vision = pipeline.bundle.manifest.vision
    address = Address(uri)

    def encode() -> EncodedClip:
        return pipeline.encode(sample_clip(address, vision.fps, steps * vision.frames_per_step, on_progress))

    return functools.cache(encode) if address.once else encode


def ask(
    pipeline: Pipeline,
    encode: Callable[[], EncodedClip],
    question: str,
    *,
    selector: Selector,
    retention: float,
    max_tokens: int = 128,
    sampling: Sampling = GREEDY,
    runs: int = 1,
    sure: float = 0.0,
    on_text: Callable[[str], None] = lambda piece: None,
) -> Reply:
    """Read, encode, select, prefill and answer, everything anew in each run; text is reported of the first."""
    replies = []
    for run in range(runs):
        clip = encode()
        answer, keep = pipeline.answer(
            clip,
            question,
            selector=selector,
            retention=retention,
            max_tokens=max_tokens,
            sampling=sampling,
            sure=sure,
            on_text=on_text if run == 0 else lambda piece: None,
        )
        replies.append(Reply(answer, selector.name, answer.kept / answer.total, keep, clip.encoded, clip.frames))
    return median_run(replies)


def compare(
    pipeline: Pipeline,
    encode: Callable[[], EncodedClip],
    question: str,
    *,
    selector: Selector,
    retention: float,
    max_tokens: int = 128,
    sampling: Sampling = GREEDY,
    runs: int = 5,
    on_run: Callable[[], None] = lambda: None,
) -> Comparison:
    """The same question pruned and unpruned, interleaved so that drift of the machine hits both alike.

    One pruned run before, as `profile` does, is not counted: a first prefill is slower than those that follow.
    """
    variants = (selector, pipeline.selector(UNPRUNED))
    ask(pipeline, encode, question, selector=selector, retention=retention, max_tokens=2, sampling=sampling)
    replies: tuple[list[Reply], list[Reply]] = ([], [])
    for _ in range(runs):
        for variant, done in zip(variants, replies, strict=True):
            reply = ask(
                pipeline,
                encode,
                question,
                selector=variant,
                retention=retention,
                max_tokens=max_tokens,
                sampling=sampling,
            )
            done.append(reply)
            on_run()
    seconds = {}
    for stage in STAGES:
        pruned, unpruned = (
            statistics.median(getattr(reply.answer.timings, stage) for reply in done) for done in replies
        )
        seconds[stage] = pruned, unpruned
    return Comparison(median_run(replies[0]), median_run(replies[1]), seconds, runs)


def median_run(replies: list[Reply]) -> Reply:
    """The run whose prefill took the median time (the upper one of an even number)."""
    return sorted(replies, key=lambda reply: reply.answer.timings.prefill)[len(replies) // 2]
