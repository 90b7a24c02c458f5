"""FastVLM: FastViTHD, a convolutional tower of timm's, and an MLP; each frame is an image of its own.

Its last stages attend, the others are convolutions: no layer computes a patch without its neighbours, so nothing of a
frame can be kept from the one before it.
"""

from typing import Any

import torch
from torch import nn

from score_edge.bundle.manifest import Prompt, Vision
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, check_cells, one_frame, split_chat

STRIDE = 64  # pixels per token: the tower halves a frame six times, which is in timm's code and in no config


class FrameEncoder(nn.Module):
    """The tower and the projector.

    Args:
        model: the inner model (`FastVlmModel`).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector = model.vision_tower.timm_model, model.multi_modal_projector

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) pixels to (N, D) tokens, raster order."""
        tokens: torch.Tensor = self.projector(self.tower.forward_features(pixels).flatten(2).transpose(1, 2))[0]
        return tokens


class FastVlm(Family):
    """FastVLM as transformers has it."""

    name = "fast_vlm"
    model_class = "FastVlmForConditionalGeneration"
    needs = ("timm",)
    incremental = "no: convolutions"

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """The checkpoint's square unless another multiple of 64 is named; frames are padded, as it was trained."""
        one_frame(checkpoint, frames_per_step)
        if not str(checkpoint.config.vision_config.architecture).startswith("fastvit_mci"):
            architecture = checkpoint.config.vision_config.architecture
            raise ScoreEdgeError(f"{checkpoint.name} reads the tower {architecture}; only FastViTHD is known")
        crop = checkpoint.setting("crop_size", checkpoint.setting("size"))
        side = int(crop.get("height") or crop["shortest_edge"])
        height, width = size or (side, side)
        check_cells(height, width, STRIDE)
        return Vision(
            graph=ENCODER,
            height=height,
            width=width,
            patch=STRIDE,
            merge=1,
            frames_per_step=1,
            fps=float(checkpoint.setting("fps", 1.0)),
            dim=checkpoint.config.text_config.hidden_size,
            grid=(height // STRIDE, width // STRIDE),
            layout="pixels",
            letterbox=True,
            **checkpoint.normalisation,
        )

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """Tower and projector; their convolutions take any frame."""
        return FrameEncoder(model.model)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """A row of images in one block; the model knows no videos, and no times."""
        image = tokenizer.convert_ids_to_tokens(checkpoint.config.image_token_index)
        return split_chat(checkpoint, tokenizer, image, kind="image")


FAMILY = FastVlm()
