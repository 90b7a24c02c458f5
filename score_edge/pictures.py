"""Measurements as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError, require


def plot_retention(rows: Sequence[dict[str, Any]], picture: Path) -> Path:
    """Draw overall accuracy over retention, one line per selector and one panel per clip length.

    Args:
        rows: of `score-edge evaluate --json`; those of kind "overall" are drawn.
        picture: .png, .svg or .pdf.

    Raises:
        ScoreEdgeError: nothing to draw, or a picture of an unknown kind.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    overall = [row for row in rows if row["kind"] == "overall"]
    lengths = sorted({row["steps"] for row in overall})
    if not lengths:
        raise ScoreEdgeError("there is no accuracy to draw")
    figure = Figure(figsize=(5 * len(lengths), 3.6), layout="constrained")
    for axes, steps in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths, strict=True):
        here = [row for row in overall if row["steps"] == steps]
        for name in dict.fromkeys(row["selector"] for row in here):
            points = sorted((row for row in here if row["selector"] == name), key=lambda row: float(row["retention"]))
            share, accuracy = ([100 * point[key] for point in points] for key in ("retention", "accuracy"))
            if name == "all":
                axes.axhline(accuracy[0], color="black", linestyle=":", label="unpruned")
                continue
            ends = [[100 * abs(point[end] - point["accuracy"]) for point in points] for end in ("low", "high")]
            axes.errorbar(share, accuracy, yerr=ends, label=name, marker="o", markersize=3, capsize=2, linewidth=1)
        axes.set(title=f"{steps} steps", xlabel="visual tokens kept, %", ylabel="right answers, %", xscale="log")
        ticks = sorted({100 * row["retention"] for row in here if row["selector"] != "all"})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    try:
        figure.savefig(picture, dpi=120)
    except (ValueError, OSError) as error:
        raise ScoreEdgeError(f"cannot write {picture}: {error}", "name a .png, .svg or .pdf") from error
    return picture
