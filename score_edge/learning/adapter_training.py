"""Learn an adapter by distillation: from few visual tokens say what the same model says when it sees all of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from score_edge.bundle.atomic import make_folder
from score_edge.errors import ScoreEdgeError
from score_edge.learning.adapter import Adapter
from score_edge.learning.answer_targets import Teacher
from score_edge.learning.curriculum import Scene
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.metrics import add_row, keep_rows
from score_edge.learning.policy_checkpoint import load_checkpoint, save_checkpoint
from score_edge.learning.recipe import AdapterRecipe
from score_edge.learning.rollouts import draw_rate, generator
from score_edge.learning.text_decoder import TextDecoder
from score_edge.selection.base import Selector

MOST_HELD = 16  # clips that are held out
Log = Callable[[dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything a clip goes through.

    Attributes:
        model: selects tokens and lays out prompts.
        decoder: with the adapter beside it.
        features, teacher: hold every clip.
        selector: what keeps tokens.
    """

    model: FrozenModel
    decoder: TextDecoder
    adapter: Adapter
    features: Features
    teacher: Teacher
    selector: Selector

    def loss(self, scene: Scene, share: float) -> torch.Tensor:
        """KL divergence in nats, mean over the answer tokens of a clip, with a share of its visual tokens."""
        clip = self.features.read(scene)
        keep = self.model.select(clip.tokens, self.selector, share)
        logits = self.decoder.logits(self.model.prompt(clip, keep))
        return self.teacher.read(scene).divergence(logits).mean()

    @torch.no_grad()
    def mean_loss(self, scenes: Sequence[Scene], shares: Sequence[float]) -> float:
        """The same for some clips, each as important as any, with a share for each."""
        return float(torch.stack([self.loss(*pair) for pair in zip(scenes, shares, strict=True)]).mean())


def hold_out(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Scene]]:
    """Clips to measure on, a tenth from all over them and at most MOST_HELD, and clips to learn from.

    Raises:
        ScoreEdgeError: there is only one.
    """
    count = max(1, min(MOST_HELD, len(scenes) // 10))
    held = {i * len(scenes) // count for i in range(count)}
    learned = [scene for i, scene in enumerate(scenes) if i not in held]
    if not learned:
        raise ScoreEdgeError("there is one clip only", "an adapter learns from some and is measured on others")
    return [scenes[i] for i in sorted(held)], learned


def train_adapter(
    folder: Path,
    lesson: Lesson,
    held: Sequence[Scene],
    learned: Sequence[Scene],
    recipe: AdapterRecipe,
    data: str,
    *,
    resume: bool = False,
    on_log: Log = lambda row: None,
) -> None:
    """Run the recipe; the adapter is then what it has learned.

    A row of metrics.jsonl is an update: `step` of them were made, `few` and `whole` are the losses of its clips by
    whether all tokens were kept, `keep` the mean share. Before the first one, and every so many, `held` is the loss of
    the clips that are held out, with shares drawn once as in learning, and `held_whole` with all of their tokens.

    Args:
        folder: gets checkpoint.safetensors and metrics.jsonl.
        lesson: its clips are all prepared.
        held, learned: clips to measure on and to learn from, see `hold_out`.
        recipe: every number, with a learning rate.
        data: the same for the same clips and weights.
        resume: go on from the checkpoint; the result is that of a run that never stopped.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: the loss is not a number; no checkpoint, or one of another recipe, of other clips or weights.
    """
    make_folder(folder)
    adapter, checkpoint, metrics = lesson.adapter, folder / "checkpoint.safetensors", folder / "metrics.jsonl"
    rate = recipe.learning_rate or 0.0
    optimizer = torch.optim.Adam(adapter.parameters(), rate, betas=(0.9, 0.98))
    start = load_checkpoint(checkpoint, adapter, optimizer, recipe, data) if resume else 0
    keep_rows(metrics, lambda row: resume and row["step"] <= start)

    lowest, highest = recipe.lowest, recipe.highest
    shares_held = [draw_rate(lowest, highest, generator(recipe.seed, 3, i)) for i in range(len(held))]

    def log(row: dict[str, float]) -> None:
        if row["step"] % recipe.checkpoint_every == 0 or row["step"] == recipe.steps:
            row["held"] = lesson.mean_loss(held, shares_held)
            row["held_whole"] = lesson.mean_loss(held, [1.0] * len(held))
        add_row(metrics, row)
        on_log(row)

    if not resume:
        log({"step": 0})
    for step in range(start, recipe.steps):
        optimizer.zero_grad()
        losses: dict[bool, list[float]] = {True: [], False: []}
        shares = []
        for slot in range(recipe.clips):
            stream = generator(recipe.seed, 2, step, slot)
            scene = learned[int(torch.randint(len(learned), (), generator=stream))]
            whole = float(torch.rand((), generator=stream)) < recipe.whole
            shares.append(1.0 if whole else draw_rate(lowest, highest, stream))
            loss = lesson.loss(scene, shares[-1])
            (loss / recipe.clips).backward()
            losses[whole].append(float(loss.detach()))
        size = torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        if not math.isfinite(float(size)):
            raise ScoreEdgeError(
                f"step {step}: the loss is not a number",
                "start anew with a lower --learning-rate; what was learned so far cannot go on with another",
            )
        for group in optimizer.param_groups:
            group["lr"] = rate * _pace(step, recipe.steps)
        optimizer.step()
        row = {"step": step + 1.0, "keep": sum(shares) / len(shares)}
        row |= {
            name: sum(found) / len(found) for name, found in (("few", losses[False]), ("whole", losses[True])) if found
        }
        log(row)
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, adapter, optimizer, recipe, data, step + 1)


def _pace(step: int, steps: int) -> float:
    """The learning rate's share of its highest: of the step alone, so there is no scheduler to store."""
    rising = (step + 1) / (0.05 * steps)
    return min(1.0, rising) * (1 + math.cos(math.pi * step / steps)) / 2
