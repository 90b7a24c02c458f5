"""What the vision encoder learns to tell of each token: shape and colour of what it shows, its place and its motion."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from score_edge.reference import world

SIZES = (len(world.SHAPES) + 1, len(world.COLORS) + 1, 2 * world.FRAMES_PER_STEP, 2)  # of the heads
TYPICAL_MOTION = 5.5 / world.CELL  # cells a mover goes between the two frames of a step


def seeing_losses(
    told: Sequence[torch.Tensor], looks: torch.Tensor, offsets: torch.Tensor, *, background: float, resting: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropies of shape and colour, distance in cells, and squared error of the motion, in typical motions.

    Args:
        told: what heads of SIZES make of the tokens, (S, N, size) float32 each.
        looks, offsets: see `Labels`.
        background: weight of a token that shows nothing, in the first.
        resting: weight of what rests, in the last.
    """
    shape, color, place, motion = told
    shown = (looks[..., 0] > 0).float()
    weight = torch.where(shown > 0, 1.0, background).flatten()
    named = [
        (functional.cross_entropy(logits.flatten(0, 1), looks[..., i].flatten(), reduction="none") * weight).sum()
        for i, logits in enumerate((shape, color))
    ]
    off = ((place - offsets).abs().mean(-1) * shown).sum() / shown.sum()
    moved = (offsets[..., -2:] - offsets[..., :2]) / TYPICAL_MOTION
    moving = torch.where(moved.abs().sum(-1) > 0.5, 1.0, resting) * shown
    miss = ((motion - moved).square().sum(-1) * moving).sum() / moving.sum()
    return torch.stack(named).sum() / weight.sum(), off, miss
