"""Measurements as pictures."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import ScoreEdgeError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE: dict[str, Any] = {"marker": "o", "markersize": 3, "capsize": 2, "linewidth": 1}


def plot_retention(rows: Sequence[dict[str, Any]], picture: Path, differences: Sequence[dict[str, Any]] = ()) -> Path:
    """Draw overall accuracy over retention, one line per selector and one panel per clip length.

    Args:
        rows: of `score-edge evaluate --json`; those of kind "overall" are drawn.
        picture: .png, .svg or .pdf.
        differences: of the same, drawn below: paired, in points, with their interval.

    Raises:
        ScoreEdgeError: nothing to draw, or a picture of an unknown kind.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    overall = [row for row in rows if row["kind"] == "overall"]
    lengths = sorted({row["steps"] for row in overall})
    if not lengths:
        raise ScoreEdgeError("there is no accuracy to draw")
    below = bool(differences)
    names = dict.fromkeys(row["selector"] for row in overall if row["selector"] != "all")
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    figure = Figure(figsize=(5 * len(lengths), 6.4 if below else 3.6), layout="constrained")
    panels = figure.subplots(1 + below, len(lengths), squeeze=False)
    for axes, steps in zip(panels[-1], lengths, strict=True) if below else ():
        _draw_differences(axes, [row for row in differences if row["steps"] == steps], colours)
    for axes, steps in zip(panels[0], lengths, strict=True):
        here = [row for row in overall if row["steps"] == steps]
        for name in dict.fromkeys(row["selector"] for row in here):
            points = sorted((row for row in here if row["selector"] == name), key=lambda row: float(row["retention"]))
            share, accuracy = ([100 * point[key] for point in points] for key in ("retention", "accuracy"))
            if name == "all":
                axes.axhline(accuracy[0], color="black", linestyle=":", label="unpruned")
                continue
            ends = [[100 * abs(point[end] - point["accuracy"]) for point in points] for end in ("low", "high")]
            axes.errorbar(share, accuracy, yerr=ends, label=name, color=colours[name], **_LINE)
        axes.set(title=f"{steps} steps", xlabel="visual tokens kept, %", ylabel="right answers, %", xscale="log")
        ticks = sorted({100 * row["retention"] for row in here if row["selector"] != "all"})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _save(figure, picture)


def _draw_differences(axes: Any, rows: Sequence[dict[str, Any]], colours: Mapping[str, str]) -> None:
    for name in dict.fromkeys(row["selector"] for row in rows):
        points = sorted((row for row in rows if row["selector"] == name), key=lambda row: float(row["retention"]))
        ends = [[100 * abs(point[end] - point["difference"]) for point in points] for end in ("low", "high")]
        share, ahead = ([100 * point[key] for point in points] for key in ("retention", "difference"))
        axes.errorbar(share, ahead, yerr=ends, color=colours.get(name), **_LINE)
    axes.axhline(0, color="black", linestyle=":")
    against = rows[0]["against"] if rows else ""
    axes.set(xlabel="visual tokens kept, %", ylabel=f"ahead of {against}, points", xscale="log")
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, -15), max(top, 5))  # pictures of small differences are alike
    ticks = sorted({100 * row["retention"] for row in rows})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def plot_layers(layers: Sequence[dict[str, Any]], excluded: Collection[str], picture: Path) -> Path:
    """Draw what INT8 does to the output in every layer alone, those left in FP32 in another colour.

    Args:
        layers: of `score-edge calibrate --json`, ``"layers"``.
        excluded: names of those left in FP32.
        picture: .png, .svg or .pdf.

    Raises:
        ScoreEdgeError: a picture of an unknown kind.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.2 * len(layers)), layout="constrained")
    axes = figure.subplots()
    names = [layer["name"] for layer in layers]
    colours = ["tab:red" if name in excluded else "tab:blue" for name in names]
    axes.barh(names, [100 * layer["alone"] for layer in layers], color=colours)
    axes.axvline(100 * layers[0]["everything"], color="black", linestyle=":")
    axes.set_xlabel("error of the output with this layer alone in INT8, %; red stays in FP32; dotted: all in INT8")
    axes.xaxis.label.set_fontsize("small")
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    return _save(figure, picture)


def check_picture(picture: Path) -> None:
    """Refuse what could not be drawn later: another suffix, or no matplotlib; whatever takes long asks first."""
    require("matplotlib", "train")
    if picture.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ScoreEdgeError(f"cannot write {picture}: its suffix is of no known kind", "name a .png, .svg or .pdf")


def _save(figure: "Figure", picture: Path) -> Path:
    check_picture(picture)
    try:
        with atomic_file(picture) as unfinished:
            figure.savefig(unfinished, dpi=120)
    except (ValueError, OSError) as error:
        raise ScoreEdgeError(f"cannot write {picture}: {error}", "choose another place") from error
    return picture
