"""A training run as a picture: metrics.jsonl to metrics.png."""

import json
from pathlib import Path

from score_edge.errors import require

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
    picture = metrics.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    return picture
