"""A profile and a comparison as tables for the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from score_edge.profiling.comparison import ReportComparison
from score_edge.profiling.report import STAGES, Report, Variant
from score_edge.profiling.wording import NOT_AVAILABLE, about, duration, size

_COMPARED = ("hand-over", "prefill", "ttft", "decode", "whole")


def profile_tables(report: Report) -> Iterator[RenderableType]:
    """One line about the run, the sweep, the stages of every retention, and what the board said."""
    clip = f"{report.frames} frames, {report.steps} steps" if report.frames else f"{report.steps} steps"
    yield Text.assemble((report.subject, "bold"), f" on {report.source} ({clip}), {report.selector} selects")
    yield _sweep(report)
    for variant in report.variants:
        yield _stages(report, variant)
    for line in about(report):
        yield Text(line, style="dim")
    for note in report.notes:
        yield Text.assemble(("note:", "yellow"), f" {note}")


def _sweep(report: Report) -> Table:
    """One row per stage, one column per retention, and how many times faster than unpruned beside it."""
    table = Table(
        title=f"retentions interleaved, medians of {report.runs} runs, {report.answer_tokens} answer tokens",
        caption="per answer; times faster than unpruned" if report.unpruned else "retention 1 was not among them",
    )
    table.add_column("retention")
    for variant in report.variants:
        table.add_column(f"{variant.retention:g}", justify="right")
        if report.unpruned and variant is not report.unpruned:
            table.add_column("", justify="right", style="green")

    def add(label: str, cells: Sequence[tuple[str, str]]) -> None:
        shown = []
        for variant, (value, faster) in zip(report.variants, cells, strict=True):
            shown += [value, faster] if report.unpruned and variant is not report.unpruned else [value]
        table.add_row(label, *shown)

    add("tokens kept", [(str(variant.kept), "") for variant in report.variants])
    for name, label in STAGES.items():
        if any(name in variant.stages for variant in report.variants):
            add(label, [_cell(report, variant, name) for variant in report.variants])
    add("selection, share", [(f"{report.selection_share(variant):.2%}", "") for variant in report.variants])
    add("KV cache", [(size(variant.cache_bytes), "") for variant in report.variants])
    add("peak memory", [(size(variant.peak_bytes), "") for variant in report.variants])
    joules = [variant.joules_per_answer for variant in report.variants]
    add("energy", [(NOT_AVAILABLE if energy is None else f"{energy:.2f} J", "") for energy in joules])
    return table


def _cell(report: Report, variant: Variant, name: str) -> tuple[str, str]:
    if name not in variant.stages:
        return "-", ""
    faster = report.speedup(variant, name) if name in _COMPARED else None
    return duration(variant.stages[name].seconds), f"{faster:.1f}x" if faster else ""


def _stages(report: Report, variant: Variant) -> Table:
    table = Table(title=f"retention {variant.retention:g}: {variant.kept} of {variant.total} visual tokens")
    for name in ("stage", "per", "n", "median", "p90", "p99", "± std", "share"):
        table.add_column(name, justify="left" if name in ("stage", "per") else "right")
    for name, label in STAGES.items():
        if stage := variant.stages.get(name):
            figure = stage.figure
            table.add_row(
                label,
                stage.unit,
                str(figure.n),
                *(duration(value) for value in (figure.median, figure.p90, figure.p99)),
                "-" if figure.std is None else duration(figure.std),
                "" if stage.share is None else f"{stage.share:.1%}",
            )
    return table


def comparison_tables(comparison: ReportComparison, against: str) -> Iterator[RenderableType]:
    """What changed against another profile, warnings first."""
    for line in comparison.warnings:
        yield Text.assemble(("not the same:", "yellow"), f" {line}")
    if not comparison.changes:
        yield f"nothing to compare: {against} shares no retention with this profile"
        return
    table = Table(title=f"against {against}: per answer, new over old, above 1 is slower")
    for name in ("retention", "stage", "then", "now", "ratio", "± noise", ""):
        table.add_column(name, justify="left" if name in ("stage", "") else "right")
    colours = {"slower": "red", "faster": "green"}
    for change in comparison.changes:
        noise = "-" if change.ratio.noise is None else f"{change.ratio.noise:.2f}"
        verdict = change.ratio.verdict
        style = colours.get(verdict, "dim")
        table.add_row(
            f"{change.retention:g}",
            STAGES[change.stage],
            duration(change.old),
            duration(change.new),
            f"{change.ratio.value:.2f}",
            noise,
            Text(verdict, style=style),
        )
    yield table
