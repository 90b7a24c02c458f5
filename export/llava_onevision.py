"""LLaVA-OneVision: SigLIP and an MLP, a frame's tokens pooled by two, one newline row behind the last frame."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import Prompt, Vision
from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, one_frame, split_chat

POOL = 2  # a video frame's grid is halved; LlavaOnevisionModel.apply_pooling has the number in its code


class FrameEncoder(nn.Module):
    """SigLIP up to the layer the model reads, the projector, and the pooling of video frames.

    Args:
        model: the inner model (`LlavaOnevisionModel`).
        layers: after how many layers the hidden states are taken; several are put side by side.
        grid: patches per side.
    """

    def __init__(self, model: Any, layers: list[int], grid: int) -> None:
        super().__init__()
        self.vision = model.vision_tower
        self.projector = model.multi_modal_projector
        self.layers = layers
        self.grid = grid

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, side, side) pixels to (N, D) tokens, raster order."""
        hidden = self.vision.embeddings(pixels)
        states = [hidden]
        for layer in self.vision.encoder.layers[: max(self.layers)]:
            hidden = layer(hidden, None)
            states.append(hidden)
        projected = self.projector(torch.cat([states[layer] for layer in self.layers], dim=-1))
        image = projected.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        half = math.ceil(self.grid / POOL)
        pooled = functional.interpolate(image, size=[half, half], mode="bilinear")
        return pooled.flatten(2)[0].T


class LlavaOnevision(Family):
    """LLaVA-OneVision."""

    name = "llava_onevision"
    model_class = "LlavaOnevisionForConditionalGeneration"

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """The encoder's own resolution and no other: its learned positions fit nothing else."""
        one_frame(checkpoint, frames_per_step)
        config = checkpoint.config
        side, patch = config.vision_config.image_size, config.vision_config.patch_size
        if size not in (None, (side, side)):
            raise ScoreEdgeError(f"{self.name} takes frames of {side}x{side} only", f"--resolution {side}")
        if config.vision_config.model_type != "siglip_vision_model" or config.vision_feature_select_strategy != "full":
            raise ScoreEdgeError(
                f"{checkpoint.name} reads a {config.vision_config.model_type} encoder with the strategy "
                f"{config.vision_feature_select_strategy!r}; only a whole SigLIP is supported"
            )
        half = math.ceil(side // patch / POOL)
        return Vision(
            graph=ENCODER,
            height=side,
            width=side,
            patch=patch,
            merge=POOL,
            frames_per_step=1,
            fps=float(checkpoint.setting("fps", 1.0)),
            dim=config.text_config.hidden_size,
            grid=(half, half),
            layout="pixels",
            **checkpoint.normalisation,
        )

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """Encoder, projector and pooling."""
        chosen = model.config.vision_feature_layer
        count = model.config.vision_config.num_hidden_layers + 1  # the embeddings come first
        layers = [layer % count for layer in ([chosen] if isinstance(chosen, int) else chosen)]
        return FrameEncoder(model.model, layers, vision.height // vision.patch)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """The whole clip is one block."""
        return split_chat(checkpoint, tokenizer, tokenizer.convert_ids_to_tokens(checkpoint.config.video_token_index))

    def newline(self, model: Any) -> Float32 | None:
        """The learned row that ends a video."""
        row: Float32 = model.model.image_newline.detach().float().numpy()[None]
        return row


FAMILY = LlavaOnevision()
