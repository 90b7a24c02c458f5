"""The frozen reference model in torch, for learning a policy in batches: on a GPU a hundred times llama.cpp's rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from score_edge.learning.batches import predict
from score_edge.learning.curriculum import Scene
from score_edge.learning.long_clips import LongClip, batch_of
from score_edge.learning.long_decoder import decode
from score_edge.learning.long_evaluation import gathered
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.reference_model import GRID
from score_edge.learning.world_data import Prompts

ROWS = 32  # masks per batch


class TorchJudge:
    """Says how likely answers are; see `Judge` and `Prepared`, both of which it is.

    Args:
        model: a reference model on any device; its weights stay as they are.
        prompts: its own.
        clips: to learn from, on the same device, unpruned.

    Attributes:
        scenes: one per clip.
    """

    def __init__(self, model: Any, prompts: Prompts, clips: Sequence[LongClip]) -> None:
        self._model, self._prompts = model, prompts
        self._clips = {f"{i}": clip for i, clip in enumerate(clips)}
        self.scenes = [Scene(name, lambda: ([], [])) for name in self._clips]
        everything = [torch.ones(len(clip.tokens), dtype=torch.bool, device=clip.tokens.device) for clip in clips]
        unpruned = self._losses(clips, everything)
        self._prepared = {
            name: PreparedClip(clip.tokens.view(clip.steps, GRID**2, -1).cpu(), [], [], loss)
            for (name, clip), loss in zip(self._clips.items(), unpruned, strict=True)
        }
        self._of = {id(prepared): self._clips[name] for name, prepared in self._prepared.items()}

    def read(self, scene: Scene) -> PreparedClip:
        """A prepared clip; what is asked about it stays on the device."""
        return self._prepared[scene.name]

    def losses(self, clips: Sequence[PreparedClip], keeps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """See `FrozenModel.losses`; the clips are those of `read`."""
        held = [self._of[id(clip)] for clip in clips]
        device = held[0].tokens.device
        return self._losses(held, [keep.flatten().to(device) for keep in keeps])

    @torch.no_grad()
    def _losses(self, clips: Sequence[LongClip], keeps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Masks that keep equally many go together: a batch is as long as its longest."""
        counts = torch.stack([keep.sum() for keep in keeps]).tolist()
        order = sorted(range(len(keeps)), key=lambda i: (clips[i].steps, counts[i]))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), ROWS):
            rows = order[start : start + ROWS]
            kept, valid = gathered(torch.stack([keeps[i] for i in rows]))
            device = kept.device
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                embedding = self._model.model.language_model.embed_tokens
                batch = batch_of([clips[i] for i in rows], embedding, self._prompts, kept, valid)
                first, _, answers, _ = predict(self._model, batch, decode(self._model, batch)[2])
            loss = functional.cross_entropy(first.float(), answers, reduction="none").cpu()
            questions = (batch.ask >= 0).sum(dim=1).tolist()
            found |= dict(zip(rows, loss.split(questions), strict=True))
        return [found[i] for i in range(len(keeps))]
