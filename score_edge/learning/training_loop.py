"""Update after update of a small module beside a frozen model, with held-out clips, and as if it never stopped."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from score_edge.bundle.atomic import make_folder
from score_edge.errors import ScoreEdgeError
from score_edge.learning.curriculum import Scene
from score_edge.learning.metrics import add_row, keep_rows
from score_edge.learning.policy_checkpoint import load_checkpoint, save_checkpoint
from score_edge.learning.recipe import AdapterRecipe, QueryRecipe

MOST_HELD = 16  # clips that are held out
Row = dict[str, float]
Log = Callable[[Row], None]


def hold_out(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Scene]]:
    """Clips to measure on, a tenth from all over them and at most MOST_HELD, and clips to learn from.

    Raises:
        ScoreEdgeError: there is only one.
    """
    count = max(1, min(MOST_HELD, len(scenes) // 10))
    held = {i * len(scenes) // count for i in range(count)}
    learned = [scene for i, scene in enumerate(scenes) if i not in held]
    if not learned:
        raise ScoreEdgeError("there is one clip only", "what learns from some is measured on others")
    return [scenes[i] for i in sorted(held)], learned


def training_loop(
    folder: Path,
    learner: nn.Module,
    recipe: AdapterRecipe | QueryRecipe,
    data: str,
    update: Callable[[int], Row],
    evaluate: Callable[[], Row],
    *,
    resume: bool = False,
    on_log: Log = lambda row: None,
) -> None:
    """Run the recipe; the learner is then what it has learned.

    A row of metrics.jsonl is an update: `step` of them were made, the rest is what `update` says. Before the first one,
    and every so many, there is what `evaluate` says, too.

    Args:
        folder: gets checkpoint.safetensors and metrics.jsonl.
        learner: all of its parameters learn.
        recipe: with a learning rate.
        data: the same for the same clips and weights.
        update: told how many were made; leaves gradients, draws nothing that the number does not determine.
        evaluate: on clips that are held out.
        resume: go on from the checkpoint; the result is that of a run that never stopped.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: the loss is not a number; no checkpoint, or one of another recipe, of other clips or weights.
    """
    make_folder(folder)
    checkpoint, metrics = folder / "checkpoint.safetensors", folder / "metrics.jsonl"
    rate = recipe.learning_rate or 0.0
    optimizer = torch.optim.Adam(learner.parameters(), rate, betas=(0.9, 0.98))
    start = load_checkpoint(checkpoint, learner, optimizer, recipe, data) if resume else 0
    keep_rows(metrics, lambda row: resume and row["step"] <= start)

    def log(row: Row) -> None:
        if row["step"] % recipe.checkpoint_every == 0 or row["step"] == recipe.steps:
            row |= evaluate()
        add_row(metrics, row)
        on_log(row)

    if not resume:
        log({"step": 0})
    for step in range(start, recipe.steps):
        optimizer.zero_grad()
        row = update(step)
        size = torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        if not math.isfinite(float(size)):
            raise ScoreEdgeError(
                f"step {step}: the loss is not a number",
                "start anew with a lower --learning-rate; what was learned so far cannot go on with another",
            )
        for group in optimizer.param_groups:
            group["lr"] = rate * _pace(step, recipe.steps)
        optimizer.step()
        log({"step": step + 1.0, **row})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, learner, optimizer, recipe, data, step + 1)


def _pace(step: int, steps: int) -> float:
    """The learning rate's share of its highest: of the step alone, so there is no scheduler to store."""
    rising = (step + 1) / (0.05 * steps)
    return min(1.0, rising) * (1 + math.cos(math.pi * step / steps)) / 2
