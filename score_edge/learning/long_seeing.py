"""What the encoder learns again in the long stage: to tell from each token what it shows, under every regime."""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from score_edge.learning.long_clips import Footage, patchify
from score_edge.learning.long_recipe import LongRecipe
from score_edge.learning.seeing import seeing_losses

BUSY = 0.6  # share of steps in which something moves or flashes, where there are any


def pick_steps(footage: Sequence[Footage], count: int, dice: random.Random) -> list[tuple[Footage, int]]:
    """Steps of random clips."""
    picked = []
    for _ in range(count):
        shown = dice.choice(footage)
        steps = shown.busy if shown.busy and dice.random() < BUSY else range(shown.clip.steps)
        picked.append((shown, dice.choice(steps)))
    return picked


def seeing_loss(
    encoder: nn.Module,
    heads: nn.ModuleList,
    picked: Sequence[tuple[Footage, int]],
    recipe: LongRecipe,
    cast: AbstractContextManager[Any],
) -> torch.Tensor:
    """The losses of stage 1 of the reference training, see `learn_to_see`.

    Args:
        encoder: in training.
        heads: of `seeing.SIZES`.
        picked: steps of clips.
        recipe: the weights of the losses.
        cast: precision of the matrix products.
    """
    looks = torch.stack([shown.looks[step] for shown, step in picked]).long()
    offsets = torch.stack([shown.offsets[step] for shown, step in picked]).float()
    images = torch.stack([shown.images[step] for shown, step in picked])
    with cast:
        tokens = encoder(patchify(images))
        told = [head(tokens).float() for head in heads]
    named, off, miss = seeing_losses(told, looks, offsets, background=recipe.background, resting=recipe.resting)
    return named + recipe.place * off + recipe.motion * miss


@torch.no_grad()
def turn_back(encoder: Any, known: nn.Module, footage: Sequence[Footage]) -> None:
    """Turn an encoder's output to where the decoder knows it from (orthogonal Procrustes), and scale it alike.

    Args:
        encoder: changed in place.
        known: the encoder the decoder was trained with.
        footage: some clips to compare them on.
    """
    images = torch.cat([shown.images[:8] for shown in footage])
    new, old = (part(patchify(images)).flatten(0, 1).double().cpu() for part in (encoder, known))
    left, _, right = torch.linalg.svd(new.T @ old)
    last = encoder.visual.merger.mlp[2]
    turn = (left @ right * (old.std() / new.std())).to(last.weight)
    last.weight.copy_(turn.T @ last.weight)
    last.bias.copy_(last.bias @ turn)
