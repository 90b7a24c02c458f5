"""Running a profile: a warm-up, then runs that interleave the retentions on the same encoded clip."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from score_edge.core import Float32, KeptTokens, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.board import temperatures, throttle_counts
from score_edge.profiling.environment import Environment
from score_edge.profiling.figures import Figure
from score_edge.profiling.memory import peak_bytes, reset_peak
from score_edge.profiling.report import STAGES, UNITS, EncoderSteps, Point, Report, Sensors, Stage, Variant
from score_edge.profiling.spans import Spans
from score_edge.profiling.telemetry import Telemetry
from score_edge.profiling.workload import QUESTION, Workload
from score_edge.selection.budget import clip_top_k, token_count
from score_edge.selection.registry import Selector

RETENTIONS = (1.0, 0.25, 0.1, 0.05)
_LETTER = "a"
_PATIENCE_S = 2.0
_POINTS = 2000
_ENCODING = ("read", "preprocess", "encode")
_ANSWERING = ("residual", "policy", "budget", "hand-over", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class ProfilePlan:
    """How to measure.

    Attributes:
        retentions: shares of tokens to keep, in (0, 1]; speed-ups are given where 1 is among them.
        runs: measured runs per retention.
        answer_tokens: decoded in every run, whatever the model wants to say: so that answers are equally long.
        selector: name; None takes the workload's own.
    """

    retentions: tuple[float, ...] = RETENTIONS
    runs: int = 5
    answer_tokens: int = 16
    selector: str | None = None

    def check(self) -> None:
        """Raise ScoreEdgeError where this cannot be measured."""
        for retention in self.retentions:
            if not 0 < retention <= 1:
                raise ScoreEdgeError(f"retention {retention} is not in (0, 1]", "0.1 keeps 10 % of the visual tokens")
        if len(set(self.retentions)) < len(self.retentions) or not self.retentions:
            raise ScoreEdgeError("retentions must be different from each other, and at least one")
        if self.runs < 1 or self.answer_tokens < 1:
            raise ScoreEdgeError("a profile needs at least one run and one answer token")


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one retention left behind in one run."""

    kept: int
    peak: int
    cache: int | None
    began: float
    ended: float


def profile(
    workload: Workload,
    plan: ProfilePlan,
    telemetry: Telemetry,
    environment: Environment,
    *,
    subject: str,
    source: str,
    spans: Spans,
    notes: Sequence[str] = (),
    on_progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measure.

    Args:
        workload: what to run.
        plan: how often, at which retentions.
        telemetry: entered; closed by the caller.
        environment: to name in the report.
        subject, source: likewise.
        spans: takes every stretch of time; write it as a trace afterwards.
        notes: for the report, before its own.
        on_progress: told what comes next.

    Raises:
        ScoreEdgeError: the plan makes no sense, the source cannot be read, or the context is too small.
    """
    plan.check()
    selector = workload.selector(plan.selector, spans)
    if selector.name == "all" and min(plan.retentions) < 1:
        raise ScoreEdgeError(
            "the selector all keeps every token at any retention", "--retention 1, or another selector"
        )
    began, throttled = time.perf_counter(), throttle_counts()
    remarks = [*notes, *_warm_up(workload, plan, selector, spans, on_progress)]
    measured: dict[float, list[_Measured]] = {retention: [] for retention in plan.retentions}
    encoded: list[tuple[float, float]] = []
    hot = temperatures()
    for run in range(plan.runs):
        spans.run, spans.retention = run, None
        on_progress(f"run {run + 1} of {plan.runs}: read and encode")
        telemetry.sample()
        since = time.perf_counter()
        tokens, times = workload.tokens(spans)
        telemetry.sample()
        encoded.append((since, time.perf_counter()))
        # Another order each time, so that no retention always comes after the longest one.
        for i in range(len(plan.retentions)):
            retention = plan.retentions[(i + run) % len(plan.retentions)]
            on_progress(f"run {run + 1} of {plan.runs}: retention {retention:g}")
            measured[retention].append(_measure(workload, selector, (tokens, times), retention, plan, telemetry, spans))
        hot = {name: max(value, hot.get(name, value)) for name, value in temperatures().items()}
    ended = time.perf_counter()
    total = telemetry.usage(began, ended)
    if not reset_peak():
        remarks.append("the kernel does not let the memory peak be reset: it covers the whole process in every row")
    if environment.busy:
        remarks.append(f"other programs kept {environment.load:g} CPUs busy when this began: expect more noise")
    if not workload.model.capabilities.incremental:
        remarks.append("this backend runs prompt, video and question anew for every answer: prefill holds all of it")
    encoding = [telemetry.usage(*stretch).joules for stretch in encoded]
    frames = workload.frames
    known = [joules for joules in encoding if joules is not None]
    zones = hot or ({"GPU": total.celsius} if total.celsius is not None else {})
    return Report(
        subject=subject,
        source=source,
        selector=selector.name,
        steps=len(tokens),
        frames=frames,
        runs=plan.runs,
        answer_tokens=plan.answer_tokens,
        environment=environment,
        variants=tuple(_variant(r, measured[r], encoding, tokens, plan, telemetry, spans) for r in plan.retentions),
        warm_up=_sums(spans, -1),
        sensors=Sensors(
            meter=total.meter,
            joules_per_frame=statistics.median(known) / frames if known and frames else None,
            rails=total.rails,
            celsius=zones,
            throttled={name: count - throttled.get(name, 0) for name, count in throttle_counts().items()},
            load=total.load,
            device_bytes=total.device_bytes,
        ),
        timeline=tuple(_timeline(spans, began)),
        notes=tuple(remarks),
        encoder=_encoder_steps(workload, plan, spans),
    )


def _encoder_steps(workload: Workload, plan: ProfilePlan, spans: Spans) -> EncoderSteps | None:
    """Every run encodes the same cells; a step of which none is encoded has no span."""
    if workload.encoded is None:
        return None
    counts = workload.encoded.sum(1)
    cells, ran = workload.encoded.shape[1], counts[counts > 0]
    seconds = np.array([spans.of("encode", run, None) for run in range(plan.runs)])  # (runs, steps)
    whole = ran == cells

    def median(values: np.ndarray) -> float | None:
        return float(np.median(values)) if values.size else None

    return EncoderSteps(
        cells=cells,
        encoded=float(workload.encoded.mean()),
        whole=int(whole.sum()),
        unchanged=int((counts == 0).sum()),
        whole_seconds=median(seconds[:, whole]),
        typical=median(ran[~whole]),
        typical_seconds=median(seconds[:, ~whole]),
        cache_bytes=workload.encoder_cache,
    )


def _warm_up(
    workload: Workload, plan: ProfilePlan, selector: Selector, spans: Spans, on_progress: Callable[[str], None]
) -> Iterator[str]:
    """Every stage once, the fewest tokens first; the larger ones are left out where they would take long."""
    spans.run, spans.retention = -1, None
    on_progress("warm-up")
    tokens, times = workload.tokens(spans)
    for retention in sorted(plan.retentions):
        spans.retention = retention
        keep = _select(tokens, selector, retention, spans)
        _answer(workload, (tokens, times), keep, min(plan.answer_tokens, 2), spans)
        if sum(spans.of("prefill", -1, retention)) > _PATIENCE_S and retention < max(plan.retentions):
            yield f"warmed up to retention {retention:g} only: a longer prefill needs no warm-up of its own"
            return


def _measure(
    workload: Workload,
    selector: Selector,
    clip: tuple[Float32, list[float]],
    retention: float,
    plan: ProfilePlan,
    telemetry: Telemetry,
    spans: Spans,
) -> _Measured:
    spans.retention = retention
    reset_peak()
    telemetry.sample()
    began = time.perf_counter()
    keep = _select(clip[0], selector, retention, spans)
    _answer(workload, clip, keep, plan.answer_tokens, spans)
    ended = time.perf_counter()
    telemetry.sample()
    per_cell = workload.model.capabilities.cell_bytes
    cache = None if per_cell is None else per_cell * workload.sequence.here.cells
    return _Measured(int(keep.sum()), peak_bytes(), cache, began, ended)


def _select(tokens: Float32, selector: Selector, retention: float, spans: Spans) -> Mask:
    """As `Pipeline.select`, stage by stage."""
    steps, per_step, _ = tokens.shape
    count = token_count(steps, per_step, retention)
    if count == steps * per_step:
        return np.ones((steps, per_step), np.bool_)
    began, before = time.perf_counter(), len(spans.spans)
    scores = selector.score(tokens, count)
    policy = sum(span.seconds for span in spans.spans[before:])
    if policy:  # it is noted where it runs; forming the reference is the rest
        spans.add("residual", began, time.perf_counter() - policy)
    else:
        spans.add("policy", began, time.perf_counter())
    with spans.stage("budget"):
        return clip_top_k(scores, count)


def _answer(
    workload: Workload, clip: tuple[Float32, list[float]], keep: Mask, answer_tokens: int, spans: Spans
) -> None:
    """As `Pipeline.watch` and an answer of a fixed length, stage by stage."""
    sequence, layout = workload.sequence, workload.layout
    tokens, times = clip
    with spans.stage("hand-over"):
        prompt = layout.clip(KeptTokens.gather(tokens, keep, layout.grid), times)
    with spans.stage("prefill"):
        sequence.clear()
        sequence.append(*prompt.segments)
        sequence.append(layout.question(prompt.tail, QUESTION))
    if not workload.model.capabilities.incremental:
        pieces = sequence.generate(answer_tokens)
        with spans.stage("prefill"):
            next(pieces, None)
        for _ in range(answer_tokens - 1):
            with spans.stage("decode"):
                piece = next(pieces, None)
            if piece is None:
                return
        return
    for _ in range(answer_tokens):
        with spans.stage("decode"):
            sequence.logits().argmax()
            sequence.append(_LETTER)


def _variant(
    retention: float,
    measured: Sequence[_Measured],
    encoding: Sequence[float | None],
    tokens: Float32,
    plan: ProfilePlan,
    telemetry: Telemetry,
    spans: Spans,
) -> Variant:
    runs = range(plan.runs)
    per_run = [_sums(spans, run, None) | _sums(spans, run, retention) for run in runs]
    for sums in per_run:
        sums["whole"] = sum(sums.get(name, 0.0) for name in (*_ENCODING, *_ANSWERING))
        sums["ttft"] = sums["whole"] - sums.get("decode", 0.0)
    stages = {}
    for name in STAGES:
        if not all(name in sums for sums in per_run):
            continue
        shared = None if name in _ENCODING else retention
        single = [seconds for run in runs for seconds in spans.of(name, run, shared)] if name in UNITS else []
        samples = single or [sums[name] for sums in per_run]
        share = statistics.fmean(sums[name] / sums["whole"] for sums in per_run)  # means, so that they add up to 1
        stages[name] = Stage(
            unit=UNITS.get(name, "clip"),
            figure=Figure.of(samples),
            answer=Figure.of([sums[name] for sums in per_run]),
            share=None if name in ("ttft", "whole") else share,
        )
    usages = [telemetry.usage(one.began, one.ended) for one in measured]
    joules = [
        usage.joules + (first or 0.0) for usage, first in zip(usages, encoding, strict=True) if usage.joules is not None
    ]
    watts = [usage.watts for usage in usages if usage.watts is not None]
    return Variant(
        retention=retention,
        kept=measured[0].kept,
        total=tokens.shape[0] * tokens.shape[1],
        stages=stages,
        peak_bytes=max(one.peak for one in measured),
        cache_bytes=measured[-1].cache,
        joules_per_answer=statistics.median(joules) if joules else None,
        watts=statistics.median(watts) if watts else None,
    )


def _sums(spans: Spans, run: int, *retentions: float | None) -> dict[str, float]:
    """Seconds per stage in a run; all of it, or only what belongs to these retentions."""
    sums: dict[str, float] = {}
    for span in spans.spans:
        if span.run == run and (not retentions or span.retention in retentions):
            sums[span.name] = sums.get(span.name, 0.0) + span.seconds
    return sums


def _timeline(spans: Spans, began: float) -> Iterator[Point]:
    shown = [span for span in spans.spans if span.run >= 0 and span.name in ("encode", "prefill", "decode")]
    for span in shown[:: max(1, len(shown) // _POINTS)]:
        yield Point(span.name, span.retention, round(span.began - began, 6), span.seconds)
