"""A training run as a picture: metrics.jsonl to metrics.png."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import require

SHOWN_POLICY = {"what it earns": ("quality", "held"), "what it keeps": ("keep", "spread")}
SHOWN = {1: ("loss", "shape", "color", "off_by_px"), 2: ("loss", "pruned", "whole")}


def plot_metrics(metrics: Path) -> Path:
    """Draw every metric of SHOWN over the steps of its stage, one panel per stage.

    Args:
        metrics: JSON lines with `stage`, `step` and numbers.

    Returns:
        The picture, beside the metrics.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    stages = sorted({row["stage"] for row in rows})
    figure = Figure(figsize=(5 * len(stages), 3.2), layout="constrained")
    for axes, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        for name in SHOWN[stage]:
            points = [(row["step"], row[name]) for row in rows if row["stage"] == stage and name in row]
            axes.plot(*zip(*points, strict=True), label=name)
        axes.set(title=f"stage {stage}", xlabel="step", ylim=(0, 2.5))
        axes.grid(alpha=0.3)
        axes.legend()
    return _saved(figure, metrics)


def plot_policy(metrics: Path, window: int = 20) -> Path:
    """Draw a policy's training: running means over `window` steps; a line marks where the curriculum moves on.

    Args:
        metrics: JSON lines with `stage`, `step`, quality, held, keep and spread.
        window: steps averaged per point: single steps differ most by the clips they drew.

    Returns:
        The picture, beside the metrics.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, 2), SHOWN_POLICY.items(), strict=True):
        for name in names:
            axes.plot([row["step"] for row in rows], _running([row[name] for row in rows], window), label=name)
        moving = [row["step"] for row in rows if row["stage"] == 2]
        if moving and moving[0] > rows[0]["step"]:
            axes.axvline(moving[0], color="grey", linestyle=":")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    return _saved(figure, metrics)


def plot_adapter(metrics: Path) -> Path:
    """Draw an adapter's training."""
    drawn = {"few tokens": "few", "all tokens": "whole", "few, held out": "held", "all, held out": "held_whole"}
    return _plot_updates(metrics, {"KL from what all tokens say, nats": drawn}, logarithmic=True)


def plot_query(metrics: Path) -> Path:
    """Draw the training of a policy that knows the question."""
    panels = {
        "cross-entropy with the saliency, nats": {"learned from": "loss", "held out": "held"},
        "share of the saliency in a twentieth of the tokens": {"learned from": "share", "held out": "held_share"},
    }
    return _plot_updates(metrics, panels)


def _plot_updates(
    metrics: Path, panels: dict[str, dict[str, str]], *, logarithmic: bool = False, window: int = 20
) -> Path:
    """Draw running means over updates, and a point for each look at the clips that are held out.

    Args:
        metrics: JSON lines with `step` and some of the names.
        panels: titles, and the name of the metric behind each label; what begins with held is of clips held out.
        logarithmic: values upwards, but near 0.
        window: updates averaged.

    Returns:
        The picture, beside the metrics.
    """
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    figure = Figure(figsize=(6 * len(panels), 3.2), layout="constrained")
    for axes, (title, drawn) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for label, name in drawn.items():
            known = [row for row in rows if name in row]
            steps, values = ([row[which] for row in known] for which in ("step", name))
            if name.startswith("held"):
                axes.plot(steps, values, "o--", label=label, markersize=3)
            else:
                axes.plot(steps, _running(values, window), label=label)
        axes.set(title=title, xlabel="update")
        if logarithmic:
            axes.set_yscale("symlog", linthresh=0.01)
        axes.grid(alpha=0.3)
        axes.legend()
    return _saved(figure, metrics)


def _running(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` before it."""
    return [sum(values[max(0, i - window) : i + 1]) / (min(i, window) + 1) for i in range(len(values))]


def _saved(figure: Any, metrics: Path) -> Path:
    picture = metrics.with_suffix(".png")
    with atomic_file(picture) as unfinished:
        figure.savefig(unfinished, dpi=120)
    return picture
