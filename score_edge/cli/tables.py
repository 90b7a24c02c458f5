"""Results as people read them: rich tables for the terminal, plain dictionaries for --json."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from score_edge.evaluation.accuracy import Accuracy
from score_edge.evaluation.comparison import STAGES, Comparison, Reply
from score_edge.evaluation.selectivity import Selectivity

if TYPE_CHECKING:
    from score_edge.calibration.change_threshold import ChangeReport
    from score_edge.engines.rtx_check import Verdict
    from score_edge.evaluation.demo import Demo
    from score_edge.evaluation.paired import PairedDifference
    from score_edge.onnx_files.difference import Difference

LESS_THAN_A_STEP = "* fewer tokens than one step has: evs, dtd, surge and last-kept keep step 0 first and see no more"


def reply_json(reply: Reply) -> dict[str, Any]:
    """One answer and its cost, seconds."""
    timings = reply.answer.timings
    return {
        "answer": reply.answer.text,
        "selector": reply.selector,
        "retention": reply.retention,
        "kept": reply.answer.kept,
        "total": reply.answer.total,
        "encoded": round(float(reply.encoded.mean()), 4),
        **({"looks": [dataclasses.asdict(look) for look in reply.answer.looks]} if reply.answer.looks else {}),
        "timings": {**dataclasses.asdict(timings), "ttft": timings.ttft, "whole": timings.whole},
    }


def answer_line(reply: Reply, *, times: bool = True) -> str:
    """Tokens kept and, where no table says it, where the time went, on one line."""
    timings = reply.answer.timings
    parts = [f"{reply.answer.kept}/{reply.answer.total} tokens kept by {reply.selector}"]
    if not reply.encoded.all():
        parts.append(f"{reply.encoded.mean():.0%} of the cells encoded")
    if looks := reply.answer.looks:
        parts.append("sure to " + " then ".join(f"{look.probability:.0%} of {look.kept}" for look in looks))
    parts += [f"{STAGES[name]} {_ms(getattr(timings, name))}" for name in STAGES if times and name != "whole"]
    return " · ".join(parts)


def comparison_table(comparison: Comparison) -> Table:
    """Pruned beside unpruned, one row per stage."""
    pruned, unpruned = comparison.pruned, comparison.unpruned
    table = Table(title=f"pruned beside unpruned, medians of {comparison.runs} interleaved runs")
    table.add_column("")
    table.add_column(f"{pruned.selector}, {pruned.retention:.0%} kept", justify="right", style="bold green")
    table.add_column("unpruned", justify="right")
    table.add_column("times faster", justify="right")
    table.add_row("answer", pruned.answer.text, unpruned.answer.text, "")
    table.add_row("visual tokens", str(pruned.answer.kept), str(unpruned.answer.kept), "")
    for name, label in STAGES.items():
        ratio = f"{comparison.speedup[name]:.1f}x" if name in comparison.speedup else ""
        table.add_row(label, *(_ms(seconds) for seconds in comparison.seconds[name]), ratio)
    return table


def accuracy_tables(rows: Sequence[Accuracy], width: int) -> Iterator[Table]:
    """One table per clip length and regime: a row per variant, a column per question type; more where they do not fit.

    Args:
        rows: to show.
        width: characters of a line.
    """
    regimes = list(dict.fromkeys(row.world for row in rows))
    for steps, regime in dict.fromkeys((row.steps, row.world) for row in rows):
        chosen = [row for row in rows if (row.steps, row.world) == (steps, regime)]
        where = f", {regime}" if len(regimes) > 1 else ""
        kinds = list(dict.fromkeys(row.kind for row in chosen))
        longest = max(len(name) for name in ("selector", *(row.selector for row in chosen)))
        first = len(f"│ {min(20, longest) * ' '} │ retention │")
        for names in _fitting([*kinds, "evidence"], width - first):
            table = Table(
                title=f"accuracy in % at {steps} steps{where}, with 95 % interval; evidence = evidence tokens kept",
                caption=LESS_THAN_A_STEP if any(row.steps_kept < 1 for row in chosen) else None,
            )
            for name in ("selector", "retention", *names):
                table.add_column(name, justify="left" if name == "selector" else "right")
            for variant in dict.fromkeys((row.selector, row.retention) for row in chosen):
                cells = {row.kind: row for row in chosen if (row.selector, row.retention) == variant}
                less = "*" if cells["overall"].steps_kept < 1 else ""
                table.add_row(variant[0], f"{variant[1]:g}{less}", *(_accuracy(name, cells) for name in names))
            yield table


def _fitting(names: Sequence[str], room: int) -> Iterator[list[str]]:
    """Columns in groups that fit beside each other: an interval has 11 characters, other figures at most 5."""
    group: list[str] = []
    left = room
    for name in names:
        needed = max(len(name), 11 if name == "overall" else 5) + 3
        if group and needed > left:
            yield group
            group, left = [], room
        group.append(name)
        left -= needed
    yield group


def _accuracy(name: str, cells: Mapping[str, Accuracy]) -> str | Text:
    overall = cells["overall"]
    if name == "evidence":
        return f"{overall.recall * 100:.0f}"
    if name != "overall":
        return f"{cells[name].accuracy * 100:.1f}" if name in cells else "-"
    interval = f" ({overall.low * 100:.1f}-{overall.high * 100:.1f})"
    return Text.assemble((f"{overall.accuracy * 100:.1f}", "bold"), interval)


def paired_table(rows: "Sequence[PairedDifference]") -> Table:
    """A row per selector, retention and length: how far it is ahead of the one compared with, in points."""
    table = Table(
        title="the same questions, in points of right answers, with 95 % interval over clips",
        caption="bold: the interval lies on one side of 0",
    )
    names = ("selector", "against", "world", "steps", "retention", "ahead by")
    for name in names:
        table.add_column(name, justify="left" if name in names[:3] else "right")
    for row in rows:
        ahead = f"{row.difference * 100:+.1f} ({row.low * 100:+.1f} to {row.high * 100:+.1f})"
        shown = Text(ahead, style="bold" if row.decided else "")
        table.add_row(row.selector, row.against, row.world, str(row.steps), f"{row.retention:g}", shown)
    return table


def selectivity_table(rows: Sequence[Selectivity]) -> Table:
    """One row per selector and retention: how densely kept tokens lie inside boxes and outside."""
    table = Table(
        title="kept tokens per area, inside labelled boxes and outside, %",
        caption=f"{rows[0].steps} labelled steps; boxes cover {rows[0].area:.1%} of their area",
    )
    for name in ("selector", "retention", "inside", "outside", "inside / outside"):
        table.add_column(name, justify="left" if name == "selector" else "right")
    for row in rows:
        shares = (f"{row.inside * 100:.1f}", f"{row.outside * 100:.1f}")
        ratio = "none outside" if row.ratio is None else Text(f"{row.ratio:.2f}", style="bold")
        table.add_row(row.selector, f"{row.retention:g}", *shares, ratio)
    return table


def inspection_table(description: dict[str, Any]) -> Table:
    """A bundle's description, nested keys joined by dots."""
    table = Table(show_header=False, box=None)
    for key, value in _flatten(description):
        table.add_row(Text(key, style="bold"), str(value))
    return table


def difference_table(differences: "Sequence[Difference]", title: str = "ONNX Runtime against torch") -> Table:
    """A row per output and kind of input."""
    table = Table(title=title)
    for name in ("output", "input", "max abs", "mean abs", "max relative", "cosine of the worst row"):
        table.add_column(name, justify="left" if name in ("output", "input") else "right")
    for row in differences:
        numbers = (f"{value:.2g}" for value in (row.largest, row.mean, row.relative))
        table.add_row(row.output, row.data, *numbers, f"{row.cosine:.7f}")
    return table


def plan_table(plan: dict[str, Any]) -> Table:
    """What `build` would make of which graph."""
    table = Table(title="TensorRT engines to build")
    for name in ("graph", "from", "opset", "precision", "input", "tolerance"):
        table.add_column(name)
    for graph in plan["graphs"]:
        shapes = []
        for name, profile in graph["shapes"].items():
            least, _, most = ("x".join(map(str, shape)) for shape in profile)
            shapes.append(f"{name} {most}" if least == most else f"{name} {least} to {most}")
        columns = (str(graph[name]) for name in ("graph", "onnx", "opset", "precision"))
        table.add_row(*columns, "\n".join(shapes), f"{graph['tolerance']:g}")
    return table


def verdict_table(rows: "Sequence[Verdict]") -> Table:
    """What NVIDIA's parser and builder said to each graph."""
    version = next((row.tensorrt for row in rows if row.tensorrt), "")
    table = Table(title=f"TensorRT for RTX {version}".strip(), caption="parsed and built on the CPU; nothing was run")
    for name in ("graph", "precision", "verdict", "MB", "seconds"):
        table.add_column(name, justify="right" if name in ("MB", "seconds") else "left")
    for row in rows:
        numbers = ("", "") if row.problem else (f"{row.bytes / 1e6:.1f}", f"{row.seconds:.1f}")
        table.add_row(row.graph, row.precision, row.problem or "builds", *numbers)
    return table


def change_table(report: "ChangeReport") -> Table:
    """What each threshold does on each clip."""
    table = Table(
        title=f"cells are encoded again from {report.threshold:g} grey levels of change on",
        caption="against encoding every cell; levels: grey levels; error: of tokens, late: of the last quarter; "
        f"divergence: of the next word, at most {report.bound:g} nats",
    )
    names = ("clip", "levels", "encoded", "error", "late error", "same kept", "divergence")
    for name in names:
        table.add_column(name, justify="left" if name == "clip" else "right")
    for trial in report.trials:
        shares = (trial.encoded, trial.error, trial.late_error, trial.agreement)
        style = "bold" if trial.threshold == report.threshold else ""
        figures = (f"{trial.threshold:g}", *(f"{share:.1%}" for share in shares), f"{trial.divergence:.4f}")
        table.add_row(trial.clip, *figures, style=style)
    return table


def demo_report(demo: "Demo") -> Iterator[RenderableType]:
    """The demo's tables and where its picture is."""
    table = Table(title=f"one clip of {demo.steps} steps, every question pruned and unpruned")
    for name in ("question", "right answer", f"{demo.selector}, {demo.retention:.0%} kept", "unpruned"):
        table.add_column(name)
    for row in demo.answers:
        table.add_row(row.question, row.right, *(_marked(text, row.right) for text in (row.pruned, row.unpruned)))
    yield table
    if demo.accuracy:
        clips, steps = demo.accuracy.clips, demo.accuracy.steps
        table = Table(title=f"right answers on {clips} more clips of {steps} steps ({demo.accuracy.asked} questions)")
        table.add_column("selector")
        table.add_column("visual tokens kept", justify="right")
        table.add_column("right", justify="right")
        for name, kept, share in demo.accuracy.rows:
            table.add_row(name, f"{kept:.0%}", f"{share:.1%}")
        yield table
    table = Table(title=f"speed at {demo.steps} steps, medians of {demo.runs} interleaved runs")
    for name in ("", "pruned", "unpruned", "times faster"):
        table.add_column(name, justify="left" if not name else "right")
    for stage, (pruned, unpruned) in demo.seconds.items():
        table.add_row(STAGES[stage], _ms(pruned), _ms(unpruned), f"{unpruned / pruned:.1f}x")
    yield table
    if not demo.problem:
        yield Text.assemble("kept tokens painted over the frames: ", (demo.overlay, "bold"))
    if demo.note:
        yield Text(demo.note, style="yellow")


def _marked(text: str, right: str) -> Text:
    return Text(text, style="" if not right else "green" if text == right else "red")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    nested = isinstance(value, list) and value and isinstance(value[0], dict)
    if nested or (isinstance(value, dict) and value):
        for key, item in enumerate(value) if nested else value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
