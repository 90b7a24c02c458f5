"""Learn the policy by reinforcement against the frozen model: draw masks, ask the model, reward, repeat.

Per clip and step: a keep rate drawn log-uniformly, a group of Bernoulli masks at that rate, the cross-entropy of every
answer with the kept tokens beside that with all of them, advantages over the group, REINFORCE.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from score_edge.bundle.atomic import make_folder
from score_edge.errors import ScoreEdgeError, require
from score_edge.export.policy_graph import PolicyNetwork
from score_edge.learning.curriculum import Scene
from score_edge.learning.metrics import add_row, keep_rows
from score_edge.learning.policy_checkpoint import load_checkpoint, save_checkpoint
from score_edge.learning.policy_start import new_policy, policy_inputs
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.recipe import PolicyRecipe
from score_edge.learning.rewards import product_advantage, quality, sparsity, split_advantage
from score_edge.learning.rollouts import draw_masks, draw_rate, generator, group_loss, rate_bias

WARM_CLIPS = 48  # clips whose tokens the input is normalised by and the regression sees
Log = Callable[[dict[str, float]], None]


class Judge(Protocol):
    """The frozen model, whatever runs it: `FrozenModel` as it is deployed, `TorchJudge` in batches."""

    def losses(self, clips: Sequence[PreparedClip], keeps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `FrozenModel.losses`."""


class Prepared(Protocol):
    """Where prepared clips are."""

    def read(self, scene: Scene) -> PreparedClip:
        """See `Features.read`."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """What to learn from: pseudo-videos for stage 1, moving videos for stage 2; all prepared.

    Attributes:
        model: tells the model that sees them from others, as `FrozenModel.fingerprint`.
    """

    stills: Sequence[Scene]
    moving: Sequence[Scene]
    model: str = ""

    def digest(self) -> str:
        """The same for the same clips, in the same order, seen by the same model."""
        names = [[scene.name for scene in scenes] for scenes in (self.stills, self.moving)]
        return hashlib.sha256(json.dumps([self.model, *names]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Group:
    """One clip with its rollouts."""

    clip: PreparedClip
    logits: torch.Tensor  # (n,) with gradient
    shifted: torch.Tensor  # the same at the keep rate
    masks: torch.Tensor  # (K, n)


def draw_group(policy: PolicyNetwork, clip: PreparedClip, recipe: PolicyRecipe, stream: torch.Generator) -> Group:
    """K masks of one clip, all at the same keep rate, so that what differs is which tokens are kept."""
    logits = policy.logits(*policy_inputs(clip))
    shifted = logits + rate_bias(logits, draw_rate(recipe.lowest, recipe.highest, stream))
    return Group(clip, logits, shifted, draw_masks(shifted, recipe.rollouts, stream))


def learn_from(model: Judge, groups: Sequence[Group], recipe: PolicyRecipe) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of some groups, and what to log: means over the rollouts."""
    pairs = [(group.clip, mask.view(group.clip.tokens.shape[:2])) for group in groups for mask in group.masks]
    found = model.losses(*map(list, zip(*pairs, strict=True)))
    losses, sums = [], dict.fromkeys(("reward", "quality", "sparsity", "held", "spread"), 0.0)
    for i, group in enumerate(groups):
        loss = torch.stack(found[i * recipe.rollouts : (i + 1) * recipe.rollouts])
        good, sparse = quality(loss, group.clip.unpruned), sparsity(group.masks)
        held = good >= -recipe.slack
        if recipe.advantage == "split":
            reward = good + recipe.sparsity_weight * held * sparse
            advantage = split_advantage(good, sparse, weight=recipe.sparsity_weight, slack=recipe.slack)
        else:
            reward = good * sparse
            advantage = product_advantage(good, sparse)
        losses.append(group_loss(group.shifted, group.masks, advantage))
        sums["reward"] += float(reward.mean())
        sums["quality"] += float(good.mean())
        sums["sparsity"] += float(sparse.mean())
        sums["held"] += float(held.float().mean())
        sums["spread"] += float(group.logits.detach().std())
    penalty = torch.stack([group.logits.square().mean() for group in groups]).mean()
    total = torch.stack(losses).mean() + recipe.logit_penalty * penalty
    return total, {name: value / len(groups) for name, value in sums.items()}


def train_policy(
    folder: Path,
    model: Judge,
    features: Prepared,
    scenes: Scenes,
    recipe: PolicyRecipe,
    *,
    resume: bool = False,
    on_log: Log = lambda row: None,
) -> PolicyNetwork:
    """Run the recipe; with `accelerate launch`, on several processes that share each step's clips.

    Args:
        folder: gets checkpoint.safetensors and metrics.jsonl.
        model: frozen, on whatever runs the bundle; the policy is small and learns on the CPU.
        features: holds every scene.
        scenes: to learn from.
        recipe: every number; the processes share its clips evenly.
        resume: go on from the checkpoint; the result is that of a run that never stopped.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: the loss is not a number; no checkpoint, or one of another recipe or of other clips.
    """
    accelerator = require("accelerate", "train").Accelerator(cpu=True)
    workers, rank = accelerator.num_processes, accelerator.process_index
    make_folder(folder)
    checkpoint = folder / "checkpoint.safetensors"
    policy = new_policy([features.read(scene) for scene in scenes.moving[:WARM_CLIPS]], recipe)
    optimizer = torch.optim.Adam(policy.parameters(), recipe.learning_rate)
    start = load_checkpoint(checkpoint, policy, optimizer, recipe, scenes.digest()) if resume else 0
    metrics = folder / "metrics.jsonl"
    if accelerator.is_main_process:
        keep_rows(metrics, lambda row: row["step"] < start)
    for step in range(start, recipe.steps):
        pool = scenes.stills if step < recipe.still_steps() else scenes.moving
        groups = []
        for slot in range(rank, recipe.clips, workers):
            stream = generator(recipe.seed, 1, step, slot)
            clip = features.read(pool[int(torch.randint(len(pool), (), generator=stream))])
            groups.append(draw_group(policy, clip, recipe, stream))
        loss, row = learn_from(model, groups, recipe)
        parts = torch.autograd.grad(loss, list(policy.parameters()))
        gradient = torch.cat([part.flatten() for part in parts])
        shared = torch.tensor([float(loss.detach()), *row.values()])
        if workers > 1:  # the policy is a few thousand numbers: averaging them by hand spares the wrapper
            both = accelerator.reduce(torch.cat([shared, gradient]).to(accelerator.device), "mean").cpu()
            shared, gradient = both[: len(shared)], both[len(shared) :]
        if not gradient.isfinite().all() or not shared.isfinite().all():
            raise ScoreEdgeError(
                f"step {step}: the loss is not a number",
                "start anew with a lower --learning-rate; what was learned so far cannot go on with another",
            )
        _set_gradient(policy, gradient)
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        _set_rate(optimizer, recipe, step)
        optimizer.step()
        if accelerator.is_main_process:
            names = ("loss", *row)
            values = dict(zip(names, shared.tolist(), strict=True))
            values = {"stage": 1 if step < recipe.still_steps() else 2, "step": step, **values}
            values["keep"] = 1 - values["sparsity"]
            add_row(metrics, values)
            on_log(values)
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                save_checkpoint(checkpoint, policy, optimizer, recipe, scenes.digest(), step + 1)
    accelerator.wait_for_everyone()
    return policy


def _set_gradient(policy: PolicyNetwork, gradient: torch.Tensor) -> None:
    start = 0
    for parameter in policy.parameters():
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter).clone()
        start += parameter.numel()


def _set_rate(optimizer: torch.optim.Optimizer, recipe: PolicyRecipe, step: int) -> None:
    """A function of the step alone, so that there is no scheduler to store."""
    cosine = (1 + torch.cos(torch.tensor(step / recipe.steps * torch.pi)).item()) / 2
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * (0.1 + 0.9 * cosine)
