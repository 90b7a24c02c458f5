"""A training run that can go on after it was killed: one safetensors file, replaced in one go."""

import dataclasses
import json
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import ScoreEdgeError
from score_edge.learning.adam_state import moments_of, restore_moments
from score_edge.learning.recipe import AdapterRecipe, PolicyRecipe, QueryRecipe

Recipe: TypeAlias = PolicyRecipe | AdapterRecipe | QueryRecipe


def check_run(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds another run, and to go on where there is none."""
    held = folder / "checkpoint.safetensors"
    if held.exists() and not resume:
        raise ScoreEdgeError(f"{folder} already holds a run", "go on with --resume, or choose another folder")
    if resume and not held.exists():
        raise ScoreEdgeError(f"there is no checkpoint in {folder}", "start without --resume")


def save_checkpoint(
    path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, data: str, step: int
) -> None:
    """What is learned, a policy or an adapter, its optimizer, the next step, and the digest of what is learned from.

    There is no random state: see `rollouts.generator`.
    """
    tensors = {f"policy.{name}": tensor for name, tensor in policy.state_dict().items()} | moments_of(optimizer)
    metadata = {"step": str(step), "recipe": json.dumps(dataclasses.asdict(recipe)), "data": data}
    with atomic_file(path) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata)


def load_checkpoint(path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, data: str) -> int:
    """Put a checkpoint back into a policy, or an adapter, and its optimizer; returns the next step.

    Raises:
        ScoreEdgeError: there is none, it is damaged, or it was made by another recipe or from other clips.
    """
    if not path.is_file():
        raise ScoreEdgeError(f"there is no checkpoint {path}", "start without --resume")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        made_by, made_from, step = json.loads(metadata["recipe"]), metadata["data"], int(metadata["step"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ScoreEdgeError(f"{path} is not a checkpoint: {error}", "start without --resume") from error
    other = [name for name, value in dataclasses.asdict(recipe).items() if made_by.get(name) != value]
    if other:
        was = ", ".join(f"{name} {made_by.get(name)}" for name in other)
        raise ScoreEdgeError(f"{path} was made by another recipe ({was})", "give the same options, or start anew")
    if made_from != data:
        raise ScoreEdgeError(
            f"{path} was learned from other clips, or for another bundle",
            "give the same bundle, footage and options, or start anew",
        )
    try:
        policy.load_state_dict({name[7:]: t for name, t in tensors.items() if name.startswith("policy.")})
    except RuntimeError as error:
        raise ScoreEdgeError(f"{path} holds what fits no model of this width", "start without --resume") from error
    restore_moments(optimizer, tensors)
    return step
