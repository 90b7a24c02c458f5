"""What the model in training gets right on validation clips, in float32: per regime and per question type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from score_edge.learning.batches import predict
from score_edge.learning.long_clips import Footage, LongClip, batch_of, patchify
from score_edge.learning.long_decoder import decode
from score_edge.learning.seeing import TYPICAL_MOTION
from score_edge.learning.world_data import Prompts
from score_edge.reference import world
from score_edge.reference.nuisance import REGIMES


@dataclass(frozen=True, slots=True)
class Marks:
    """Every question asked.

    Attributes:
        right: (M,) bool.
        kinds, regimes: (M,) int64, of `world.QUESTION_TYPES` and REGIMES.
    """

    right: torch.Tensor
    kinds: torch.Tensor
    regimes: torch.Tensor

    def share(self, chosen: torch.Tensor | None = None) -> float:
        """Of right answers."""
        return float((self.right if chosen is None else self.right[chosen]).float().mean())

    def row(self) -> dict[str, float]:
        """The mean over regimes, the lowest type, each regime and each type."""
        regimes = {name: self.share(self.regimes == i) for i, name in enumerate(REGIMES) if (self.regimes == i).any()}
        kinds = {
            name: self.share(self.kinds == i) for i, name in enumerate(world.QUESTION_TYPES) if (self.kinds == i).any()
        }
        mean = sum(regimes.values()) / len(regimes)
        return {"asked": len(self.right), "mean": mean, "lowest": min(kinds.values()), **regimes, **kinds}


@torch.no_grad()
def mark(
    model: Any, prompts: Prompts, clips: Sequence[LongClip], keeps: Sequence[torch.Tensor] | None = None, rows: int = 32
) -> Marks:
    """Ask everything about some clips.

    Args:
        model: a reference model.
        prompts: its own.
        clips: equally long.
        keeps: (n,) bool each; None keeps all.
        rows: clips per batch.
    """
    right, kinds, regimes = [], [], []
    for start in range(0, len(clips), rows):
        part = clips[start : start + rows]
        kept = valid = None
        if keeps is not None:
            kept, valid = gathered(torch.stack(list(keeps[start : start + rows])))
        batch = batch_of(part, model.model.language_model.embed_tokens, prompts, kept, valid)
        first, _, answers, types = predict(model, batch, decode(model, batch)[2])
        of = torch.tensor([REGIMES.index(clip.regime) for clip in part], device=first.device)
        right.append(first.argmax(-1) == answers)
        kinds.append(types)
        regimes.append(of[torch.nonzero(batch.ask >= 0, as_tuple=True)[0]])
    return Marks(torch.cat(right).cpu(), torch.cat(kinds).cpu(), torch.cat(regimes).cpu())


def gathered(keeps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, n) bool masks as indices (B, k) of the kept tokens and which of them are real; see `batch_of`."""
    counts = keeps.sum(dim=1)
    kept = (~keeps).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    return kept, torch.arange(kept.shape[1], device=keeps.device) < counts[:, None]


@torch.no_grad()
def mark_seeing(encoder: nn.Module, heads: nn.ModuleList, footage: Sequence[Footage]) -> dict[str, float]:
    """What single tokens tell in busy steps: shares of right shapes and colours, misplaced pixels, motion missed."""
    picked = [(shown, step) for shown in footage for step in shown.busy[:2]][:1024]
    looks = torch.stack([shown.looks[step] for shown, step in picked]).long()
    offsets = torch.stack([shown.offsets[step] for shown, step in picked]).float()
    tokens = encoder(patchify(torch.stack([shown.images[step] for shown, step in picked])))
    shape, color, place, motion = (head(tokens) for head in heads)
    shown = looks[..., 0] > 0
    moved = offsets[..., -2:] - offsets[..., :2]
    return {
        "shape": (shape.argmax(-1) == looks[..., 0])[shown].float().mean().item(),
        "color": (color.argmax(-1) == looks[..., 1])[shown].float().mean().item(),
        "off_by_px": (place - offsets)[shown].abs().mean().item() * world.CELL,
        "motion_missed_px": (motion * TYPICAL_MOTION - moved)[shown].abs().mean().item() * world.CELL,
    }
