"""LLaVA-OneVision: SigLIP and an MLP, a frame's tokens pooled by two, one newline row behind the last frame."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import Incremental, Prompt, Vision
from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, one_frame, split_chat
from score_edge.export.incremental import (
    INCREMENTAL,
    CachedAttention,
    CellEncoder,
    as_product,
    attention_of,
    cell_table,
)

POOL = 2  # a video frame's grid is halved; LlavaOnevisionModel.apply_pooling has the number in its code


class FrameEncoder(CellEncoder):
    """SigLIP up to the layer the model reads, the projector, and the pooling of video frames.

    Args:
        model: the inner model (`LlavaOnevisionModel`).
        layers: after how many layers the hidden states are taken; several are put side by side.
        vision: sizes.
    """

    table: torch.Tensor
    weights: torch.Tensor

    def __init__(self, model: Any, layers: list[int], vision: Vision) -> None:
        super().__init__()
        self.vision = model.vision_tower
        self.projector = model.multi_modal_projector
        self.layers = layers
        self.grid = vision.height // vision.patch
        table = cell_table(vision)
        every = self._pool(torch.eye(self.grid**2).unflatten(1, (self.grid, self.grid))[None])
        # How much each patch adds to a token: what pooling makes of a picture of that patch alone.
        weights = every.gather(1, table)
        assert torch.allclose(weights.sum(1), torch.ones(len(table))), "pooled from patches beyond the cell"
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, side, side) pixels to (N, D) tokens, raster order."""
        projected = self._project(self.vision.embeddings(pixels))
        return self._pool(projected.transpose(1, 2).unflatten(2, (self.grid, self.grid)))

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """A patch of two cells is encoded with each of them."""
        attention.rows = self.table[cells].flatten()
        embeddings = self.vision.embeddings
        hidden = as_product(embeddings.patch_embedding, patches.flatten(0, 1))
        with attention_of(self.vision.config, attention):
            projected = self._project(hidden[None] + embeddings.position_embedding(attention.rows))
        apart = projected[0].unflatten(0, (-1, patches.shape[1]))
        tokens: torch.Tensor = (apart * self.weights[cells][..., None]).sum(1)
        return tokens

    def cache(self) -> Incremental:
        """A row per patch, in the layers that are read."""
        width = self.vision.embeddings.patch_embedding.out_channels
        return Incremental(INCREMENTAL, max(self.layers), self.grid**2, width)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        """(1, n, width) embedded patches to (1, n, D)."""
        states = [hidden]
        for layer in self.vision.encoder.layers[: max(self.layers)]:
            hidden = layer(hidden, None)
            states.append(hidden)
        projected: torch.Tensor = self.projector(torch.cat([states[layer] for layer in self.layers], dim=-1))
        return projected

    def _pool(self, image: torch.Tensor) -> torch.Tensor:
        """(1, D, grid, grid) to (N, D)."""
        half = math.ceil(self.grid / POOL)
        return functional.interpolate(image, size=[half, half], mode="bilinear").flatten(2)[0].T


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
        return FrameEncoder(model.model, layers, vision)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """The whole clip is one block."""
        return split_chat(checkpoint, tokenizer, tokenizer.convert_ids_to_tokens(checkpoint.config.video_token_index))

    def newline(self, model: Any) -> Float32 | None:
        """The learned row that ends a video."""
        row: Float32 = model.model.image_newline.detach().float().numpy()[None]
        return row


FAMILY = LlavaOnevision()
