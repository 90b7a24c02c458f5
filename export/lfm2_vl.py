"""LFM2-VL and LFM2.5-VL: SigLIP 2 at any grid, pixel unshuffle, each frame an image of its own.

The decoder mixes short convolutions with attention: its state cannot be turned back, only copied.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import TOKENS, Incremental, Prompt, Vision
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, check_cells, one_frame, split_chat
from score_edge.export.incremental import INCREMENTAL, CachedAttention, CellEncoder, attention_of, cell_table


class FrameEncoder(CellEncoder):
    """SigLIP 2 and the projector at one grid.

    Args:
        model: the inner model (`Lfm2VlModel`).
        vision: sizes.
    """

    places: torch.Tensor
    table: torch.Tensor

    def __init__(self, model: Any, vision: Vision) -> None:
        super().__init__()
        self.vision, self.projector = model.vision_tower, model.multi_modal_projector
        height, width = self.height, self.width = vision.height // vision.patch, vision.width // vision.patch
        self.register_buffer("table", cell_table(vision), persistent=False)
        embeddings = self.vision.embeddings
        side = embeddings.position_embedding_size
        with torch.no_grad():
            table = embeddings.position_embedding.weight.reshape(side, side, -1)
            grid = torch.tensor([[height, width]])
            places = embeddings.resize_positional_embeddings(table, grid, max_length=height * width)
        self.register_buffer("places", places.detach().clone(), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) pixels to (N, D) tokens, raster order."""
        filters, bias = self._filters, self.vision.embeddings.patch_embedding.bias
        hidden = functional.conv2d(pixels, filters, bias, stride=filters.shape[-1]).flatten(2).transpose(1, 2)
        hidden = self._layers(hidden + self.places)
        tokens: torch.Tensor = self.projector(hidden.unflatten(1, (self.height, self.width)))[0].flatten(0, 1)
        return tokens

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """The projector takes the cells as an image that is one cell high."""
        attention.rows = self.table[cells].flatten()
        filters, bias = self._filters, self.vision.embeddings.patch_embedding.bias
        hidden = functional.linear(patches.flatten(0, 1), filters.flatten(1), bias)[None]
        with attention_of(self.vision.config, attention):
            hidden = self._layers(hidden + self.places[:, attention.rows])
        side = self.projector.factor
        image = hidden[0].unflatten(0, (-1, side, side)).transpose(0, 1).flatten(1, 2)
        tokens: torch.Tensor = self.projector(image[None])[0, 0]
        return tokens

    def cache(self) -> Incremental:
        """A row per patch."""
        layers = len(self.vision.encoder.layers)
        return Incremental(INCREMENTAL, layers, self.places.shape[1], self.places.shape[2])

    @property
    def _filters(self) -> torch.Tensor:
        """(width, 3, side, side); a patch of the checkpoint is ordered row, column, channel."""
        embeddings = self.vision.embeddings
        side, weight = embeddings.patch_size, embeddings.patch_embedding.weight
        filters: torch.Tensor = weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
        return filters

    def _layers(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.vision.encoder.layers:
            hidden = layer(hidden, None)
        normed: torch.Tensor = self.vision.post_layernorm(hidden)
        return normed


class Lfm2Vl(Family):
    """LFM2-VL and LFM2.5-VL."""

    name = "lfm2_vl"
    model_class = "Lfm2VlForConditionalGeneration"
    grids = "any"

    def cell(self, checkpoint: Checkpoint) -> int:
        """Patch * downsampling."""
        return int(checkpoint.config.vision_config.patch_size * checkpoint.config.downsample_factor)

    def tokens(self, checkpoint: Checkpoint) -> int:
        """As many as one image without tiles has at most."""
        return int(checkpoint.setting("max_image_tokens"))

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Any multiple of patch * downsampling."""
        one_frame(checkpoint, frames_per_step)
        config = checkpoint.config
        if config.vision_config.model_type != "siglip2_vision_model":
            raise ScoreEdgeError(f"{checkpoint.name} reads a {config.vision_config.model_type} encoder, not SigLIP 2")
        cell = self.cell(checkpoint)
        height, width = size or self.size(checkpoint)
        check_cells(height, width, cell)
        return Vision(
            graph=ENCODER,
            height=height,
            width=width,
            patch=config.vision_config.patch_size,
            merge=config.downsample_factor,
            frames_per_step=1,
            fps=float(checkpoint.setting("fps", 1.0)),
            dim=config.text_config.hidden_size,
            grid=(height // cell, width // cell),
            layout="pixels",
            letterbox=True,
            **checkpoint.normalisation,
        )

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """The encoder at one grid."""
        return FrameEncoder(model.model, vision)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """A row of images; the model knows no videos, and no times."""
        image = tokenizer.convert_ids_to_tokens(checkpoint.config.image_token_id)
        chat = split_chat(checkpoint, tokenizer, image, kind="image")
        start, end = (getattr(tokenizer, f"image_{side}_token", f"<|image_{side}|>") for side in ("start", "end"))
        return Prompt(chat.before, chat.after, step=f"{start}{TOKENS}{end}")


FAMILY = Lfm2Vl()
