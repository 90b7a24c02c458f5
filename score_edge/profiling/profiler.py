"""`score-edge profile` as a function: open what is asked for, measure it, write what was asked for."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from score_edge.bundle.atomic import write_text
from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.environment import Environment
from score_edge.profiling.llm_shapes import llm_shape, shaped_gguf
from score_edge.profiling.meters import open_meters
from score_edge.profiling.report import Report
from score_edge.profiling.run import ProfilePlan, profile
from score_edge.profiling.spans import Spans, chrome_trace
from score_edge.profiling.telemetry import Telemetry
from score_edge.profiling.workload import (
    SYNTHETIC,
    BundleWorkload,
    ShapeWorkload,
    Workload,
    bundle_hashes,
    tokens_per_step,
)
from score_edge.runtime.graphs.open_graph import Provider
from score_edge.runtime.language.backends import DEFAULT
from score_edge.runtime.language.context import cells_needed
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.runs_on import describe_pipeline
from score_edge.runtime.sources.address import Address
from score_edge.runtime.threads import check_threads
from score_edge.selection.registry import get_selector

RANDOM = "the language model's weights are random: its speed is that of the shape, its words mean nothing"
ALONE = "no encoder ran: whole answer and shares are of the language model and the selection alone"
_PROMPT_CELLS = 256


@dataclass(frozen=True, slots=True)
class Subject:
    """What to profile.

    Attributes:
        bundle: folder, or "reference".
        source: of the clip, or "synthetic".
        steps: encoder steps at most.
        llm_shape: a language model of this shape alone, random weights, instead of the bundle.
        visual_tokens: for it.
        threads: of encoder and language model; None lets each decide.
        backend: what runs the language model, see `open_language_model`.
        provider: what runs encoder and policy, see `open_graph`.
    """

    bundle: str
    source: str = SYNTHETIC
    steps: int = 64
    llm_shape: str | None = None
    visual_tokens: int = 4096
    threads: int | None = None
    backend: str = DEFAULT
    provider: Provider = "auto"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where to write what; None writes nothing."""

    report: Path | None = None
    html: Path | None = None
    trace: Path | None = None


@dataclass
class _Opened:
    workload: Workload
    environment: Environment
    title: str
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured.

    Attributes:
        report: the figures.
        trace: every stretch of time, as a Chrome trace in JSON.
    """

    report: Report
    trace: str

    def write(self, outputs: Outputs) -> None:
        """Write what is asked for.

        Raises:
            ScoreEdgeError: a place cannot be written.
        """
        if outputs.report:
            self.report.write(outputs.report)
        if outputs.html:
            from score_edge.profiling.html import page

            write_text(outputs.html, page(self.report))
        if outputs.trace:
            write_text(outputs.trace, self.trace)


def run_profile(
    subject: Subject, plan: ProfilePlan, *, on_progress: Callable[[str], None] = lambda text: None
) -> Profile:
    """Profile a bundle or a language model of a shape.

    Args:
        subject: what.
        plan: how.
        on_progress: told what comes next.

    Raises:
        ScoreEdgeError: something cannot be opened, read or run.

    Example:
        >>> report = run_profile(Subject("reference"), ProfilePlan(runs=3)).report  # doctest: +SKIP
        >>> report.speedup(report.variants[-1], "prefill")  # doctest: +SKIP
        24.7
    """
    plan.check()
    spans = Spans()
    with _opened(subject, plan, on_progress) as opened, Telemetry(open_meters()) as telemetry:
        report = profile(
            opened.workload,
            plan,
            telemetry,
            opened.environment,
            subject=opened.title,
            source="random visual tokens" if subject.llm_shape else str(Address(subject.source)),
            spans=spans,
            notes=opened.notes,
            on_progress=on_progress,
        )
    return Profile(report, json.dumps(chrome_trace(spans.spans, telemetry.power())))


@contextlib.contextmanager
def _opened(subject: Subject, plan: ProfilePlan, on_progress: Callable[[str], None]) -> Iterator[_Opened]:
    if subject.steps < 1 or subject.visual_tokens < 1:
        raise ScoreEdgeError("a profile needs at least one step and one visual token")
    opener = _open_shape if subject.llm_shape else _open_bundle
    with opener(subject, plan, on_progress) as opened:
        yield opened


@contextlib.contextmanager
def _open_bundle(subject: Subject, plan: ProfilePlan, on_progress: Callable[[str], None]) -> Iterator[_Opened]:
    bundle = Bundle.open(subject.bundle)
    context = cells_needed(bundle.manifest, subject.steps, 1.0, plan.answer_tokens)
    with Pipeline(
        bundle, context=context, threads=subject.threads, backend=subject.backend, provider=subject.provider
    ) as pipeline:
        providers = describe_pipeline(pipeline).providers
        providers["language model"] += f"; {pipeline.model.name}"
        environment = Environment.now(providers, bundle_hashes(bundle), random_weights=False)
        workload = BundleWorkload(pipeline, subject.source, subject.steps)
        yield _Opened(workload, environment, f"bundle {bundle.manifest.name}")


@contextlib.contextmanager
def _open_shape(subject: Subject, plan: ProfilePlan, on_progress: Callable[[str], None]) -> Iterator[_Opened]:
    shape = llm_shape(str(subject.llm_shape))
    # All that can be refused, before gigabytes are written.
    per_step = tokens_per_step(subject.visual_tokens, subject.steps)
    get_selector(plan.selector or "score", policy=lambda tokens, previous: tokens[:, 0])
    check_threads(subject.threads)
    cells = subject.visual_tokens + _PROMPT_CELLS + plan.answer_tokens
    path = shaped_gguf(shape, tokens=cells, on_write=lambda: on_progress(f"writing random weights of {shape.name}"))
    with LlamaCpp(path, context=cells, threads=subject.threads) as model:
        providers = {"language model": model.name}
        about = {"llm shape": shape.name, "visual tokens": str(subject.visual_tokens)}
        environment = Environment.now(providers, about, random_weights=True)
        workload = ShapeWorkload(model, shape, subject.steps, per_step)
        yield _Opened(workload, environment, f"LLM of the shape of {shape.name}", (RANDOM, ALONE))
