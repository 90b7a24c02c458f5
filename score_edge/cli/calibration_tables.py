"""A calibration as people read it."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from score_edge.calibration.calibrate import Calibration
from score_edge.calibration.incremental import IncrementalForm


def calibration_tables(report: Calibration) -> Iterator[Table]:
    """Accuracy, variants, answers where there are some, and layers with the plan."""
    yield _accuracy(report)
    yield _candidates(report)
    if report.incremental:
        yield _incremental(report.incremental)
    if report.answers:
        yield _answers(report)
    yield _layers(report)


def _accuracy(report: Calibration) -> Table:
    accuracy, tokens = report.accuracy, report.accuracy.tokens
    table = Table(
        title=f"{report.form} beside FP32 on {accuracy.steps} held-out steps",
        caption=f"calibrated on {report.steps} of {report.seen} steps; error: ||int8 - fp32|| / ||fp32||; "
        "residual: x[t] - x[t-1]",
    )
    table.add_column("what")
    table.add_column("mean", justify="right")
    table.add_column("worst token", justify="right")
    table.add_row(
        f"{accuracy.output}: cosine", f"{tokens.cosine:.6f}", Text(f"{tokens.worst_cosine:.6f}", style="bold")
    )
    table.add_row(f"{accuracy.output}: error", f"{tokens.error:.2%}", f"{tokens.worst_error:.2%}")
    table.add_row("residual: error", f"{accuracy.residual:.2%}", "")
    table.add_row("residual of the tenth that changed most: error", f"{accuracy.residual_kept:.2%}", "")
    for row in accuracy.agreement:
        name = f"same tokens kept at {row.retention:.0%} by {row.selector} (by chance {row.by_chance:.0%})"
        table.add_row(name, Text(f"{row.overlap:.1%}", style="bold"), "")
    return table


def _candidates(report: Calibration) -> Table:
    table = Table(
        title=f"ONNX Runtime on this machine, one step, FP32 {report.fp32_milliseconds:.1f} ms",
        caption="activations, then weights: s signed, u unsigned" if len(report.candidates) > 1 else None,
    )
    for name in ("variant", "loss of the worst token", "error", "ms", "times faster", ""):
        table.add_column(name, justify="left" if name in ("variant", "") else "right")
    for row in report.candidates:
        faster = f"{report.fp32_milliseconds / row.milliseconds:.2f}x"
        taken = "taken" if row.variant == report.variant else ""
        table.add_row(row.variant, f"{row.loss:.2g}", f"{row.error:.2%}", f"{row.milliseconds:.1f}", faster, taken)
    return table


def _incremental(form: IncrementalForm) -> Table:
    table = Table(
        title=f"the incremental graph ({form.layers} layers in INT8) beside all cells in FP32",
        caption=f"what changed: by more than {form.threshold:g} grey levels",
    )
    names = ("", "cells", "error", "worst cosine", "same kept at 10%")
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for name, share, fidelity in (
        ("INT8, all cells", 1.0, form.all_cells),
        ("FP32, what changed", form.encoded, form.fp32),
        ("INT8, what changed", form.encoded, form.int8),
    ):
        tokens, kept = fidelity.tokens, fidelity.agreement[-1].overlap
        table.add_row(name, f"{share:.0%}", f"{tokens.error:.2%}", f"{tokens.worst_cosine:.4f}", f"{kept:.1%}")
    return table


def _answers(report: Calibration) -> Table:
    table = Table(title=f"right answers on the reference world, {report.answers[0].asked} questions each")
    for name in ("selector", "retention", "FP32", "INT8", "points"):
        table.add_column(name, justify="left" if name == "selector" else "right")
    for row in report.answers:
        points = f"{100 * (row.int8 - row.fp32):+.2f}"
        table.add_row(row.selector, f"{row.retention:g}", f"{row.fp32:.1%}", f"{row.int8:.1%}", points)
    return table


def _layers(report: Calibration) -> Table:
    quantised = len(report.layers) - len(report.excluded)
    table = Table(
        title=f"the plan: {quantised} of {len(report.layers)} layers in INT8",
        caption="error of the output in a simulation of int8, whatever the form; "
        f"with every layer quantised {report.layers[0].everything:.2%}",
    )
    for name in ("layer", "alone quantised", "alone not", "FP32 us", "stays FP32"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in report.layers:
        place = f"{report.excluded.index(row.name) + 1}" if row.name in report.excluded else ""
        table.add_row(row.name, f"{row.alone:.2%}", f"{row.without:.2%}", f"{row.microseconds:.0f}", place)
    return table
