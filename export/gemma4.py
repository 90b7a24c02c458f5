"""Gemma 4 E2B and E4B: a ViT with pooled patches, frames of any shape, behind their time as text.

In the language model visual tokens see each other as text does, and take the padding token's per-layer input; llama.cpp
does both by itself. From 12B on they see each other in both directions, which is refused: a step would have to be
prefilled in one batch without a causal mask, and never split.
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
    """The vision tower, its pooling and the projection at one grid.

    Args:
        model: the inner model (`Gemma4Model`).
        vision: sizes.
    """

    places: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    grid: torch.Tensor
    table: torch.Tensor

    def __init__(self, model: Any, vision: Vision) -> None:
        super().__init__()
        self.vision, self.projector = model.vision_tower, model.embed_vision
        _number_bounds(self.vision)
        height, width = self.height, self.width = vision.height // vision.patch, vision.width // vision.patch
        self.register_buffer("table", cell_table(vision), persistent=False)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([columns, rows], dim=-1).view(1, -1, 2)
        embedder = self.vision.patch_embedder
        with torch.no_grad():
            places = embedder._position_embeddings(grid, torch.zeros(1, height * width, dtype=torch.bool))
            cos, sin = self.vision.encoder.rotary_emb(places, grid)
        for name, value in {"places": places, "cos": cos, "sin": sin, "grid": grid}.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) pixels in 0..1 to (N, D) tokens, raster order."""
        filters = self._filters
        hidden = functional.conv2d(2 * pixels - 1, filters, stride=filters.shape[-1]).flatten(2).transpose(1, 2)
        hidden = self._layers(hidden + self.places, self.cos, self.sin, self.grid)
        image = hidden.transpose(1, 2).unflatten(2, (self.height, self.width))
        return self._project(functional.avg_pool2d(image, self.vision.config.pooling_kernel_size).flatten(2)[0].T)

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """A token is the mean of the patches of its cell."""
        rows = attention.rows = self.table[cells].flatten()
        hidden = functional.linear(2 * patches.flatten(0, 1) - 1, self._filters.flatten(1))[None]
        with attention_of(self.vision.config, attention):
            hidden = self._layers(
                hidden + self.places[:, rows], self.cos[:, rows], self.sin[:, rows], self.grid[:, rows]
            )
        return self._project(hidden[0].unflatten(0, (-1, patches.shape[1])).mean(1))

    def cache(self) -> Incremental:
        """A row per patch."""
        layers = len(self.vision.encoder.layers)
        return Incremental(INCREMENTAL, layers, self.places.shape[1], self.places.shape[2])

    @property
    def _filters(self) -> torch.Tensor:
        """(width, 3, side, side); a patch of the checkpoint is ordered row, column, channel."""
        side, weight = self.vision.config.patch_size, self.vision.patch_embedder.input_proj.weight
        filters: torch.Tensor = weight.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
        return filters

    def _layers(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        for layer in self.vision.encoder.layers:
            hidden = layer(hidden, position_embeddings=(cos, sin), position_ids=grid)
        return hidden

    def _project(self, pooled: torch.Tensor) -> torch.Tensor:
        config = self.vision.config
        tokens = pooled * config.hidden_size**0.5
        if config.standardize:
            tokens = (tokens - self.vision.std_bias) * self.vision.std_scale
        projected: torch.Tensor = self.projector(tokens)
        return projected


def _number_bounds(vision: nn.Module) -> None:
    """Clipping bounds as numbers: of tensors the exporter makes a graph that is out of order."""
    for module in vision.modules():
        if hasattr(module, "linear") and getattr(module, "use_clipped_linears", False):
            for name in ("input_min", "input_max", "output_min", "output_max"):
                bound = float(getattr(module, name))
                module._buffers.pop(name, None)
                setattr(module, name, bound)


class Gemma4(Family):
    """Gemma 4, the sizes whose visual tokens are causal."""

    name = "gemma4"
    model_class = "Gemma4ForConditionalGeneration"
    grids = "any"

    def cell(self, checkpoint: Checkpoint) -> int:
        """Patch * pooling."""
        return int(checkpoint.setting("patch_size")) * int(checkpoint.setting("pooling_kernel_size"))

    def tokens(self, checkpoint: Checkpoint) -> int:
        """As many as a frame of a video has."""
        return int(checkpoint.setting("max_soft_tokens"))

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Any multiple of patch * pooling."""
        one_frame(checkpoint, frames_per_step)
        config = checkpoint.config
        if config.text_config.use_bidirectional_attention or config.text_config.enable_moe_block:
            raise ScoreEdgeError(
                f"{checkpoint.name} is a large Gemma 4: its visual tokens attend to each other in both directions, or "
                "it has experts; the runtime cannot do either",
                "E2B and E4B can be exported",
            )
        cell = self.cell(checkpoint)
        height, width = size or self.size(checkpoint)
        check_cells(height, width, cell)
        if max(height, width) // config.vision_config.patch_size > config.vision_config.position_embedding_size:
            raise ScoreEdgeError(f"{self.name} has no positions for frames of {height}x{width} pixels")
        return Vision(
            graph=ENCODER,
            height=height,
            width=width,
            patch=config.vision_config.patch_size,
            merge=config.vision_config.pooling_kernel_size,
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
        """Every frame between its wrappers, behind its time."""
        ids = checkpoint.config
        video, start, end = tokenizer.convert_ids_to_tokens([ids.video_token_id, ids.boi_token_id, ids.eoi_token_id])
        chat = split_chat(checkpoint, tokenizer, video)
        # Gemma4Processor writes the time in code; there is nothing to read it from.
        return Prompt(chat.before, chat.after, step=f"{{clock}} {start}{TOKENS}{end}", between=" ")


FAMILY = Gemma4()
