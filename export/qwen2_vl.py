"""Qwen2-VL: an encoder that merges two frames into a step, any grid, M-RoPE. Its successors share its encoder."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import Incremental, Prompt, Vision
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, check_cells, split_chat
from score_edge.export.incremental import INCREMENTAL, Attention, CachedAttention, CellEncoder, attend

SIDE = 448  # of the square whose number of tokens a frame has where none is named. The models take any size.


class StepEncoder(CellEncoder):
    """The encoder of a Qwen2-VL checkpoint with the grid of one step baked in.

    The encoder attends within a step only, so a fixed grid needs none of its data-dependent splitting by `cu_seqlens`
    (which cannot be exported): one step is one full attention, and a batch of steps is a batch axis.

    Args:
        visual: the checkpoint's own encoder; its weights are used as they are.
        height, width: patches per side, before merging.
        frames: frames of a step; 1 is a step whose frame stands still, which adds the two halves of each filter.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, visual: Any, height: int, width: int, frames: int = 2) -> None:
        super().__init__()
        self.visual = visual
        self.still: nn.Parameter | None = None
        if frames == 1:
            self.still = nn.Parameter(visual.patch_embed.proj.weight.detach().sum(2).flatten(1))
        merge = visual.spatial_merge_size
        # Patches come merge block by merge block, so that the merger's view() finds each block in one piece.
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        blocks = torch.stack([rows, columns]).view(2, height // merge, merge, width // merge, merge)
        cos, sin = visual.rotary_pos_emb(torch.zeros(1), blocks.permute(0, 1, 3, 2, 4).reshape(2, -1).T)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Encode one step, or a batch of them.

        Args:
            patches: (..., P, C) float32, C = channels * frames per step * patch * patch.

        Returns:
            (..., P / merge^2, D) float32, raster order.
        """
        return self._encode(patches, slice(None), attend)

    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: CachedAttention) -> torch.Tensor:
        """Patches stand cell by cell here: the rows of a cell follow each other."""
        attention.rows = (cells[:, None] * patches.shape[1] + torch.arange(patches.shape[1])).flatten()
        return self._encode(patches.flatten(0, 1), attention.rows, attention)

    def cache(self) -> Incremental:
        """A row per patch."""
        return Incremental(
            INCREMENTAL, len(self.visual.blocks), len(self.cos), self.visual.patch_embed.proj.out_channels
        )

    def embed(self, patches: torch.Tensor, rows: slice | torch.Tensor) -> torch.Tensor:
        """Patches to the encoder's width; kernel = stride = patch, so its Conv3d is a product, five times faster."""
        filters = self.visual.patch_embed.proj
        weight = filters.weight.flatten(1) if self.still is None else self.still
        return functional.linear(patches, weight, filters.bias)

    def mask(self, layer: int) -> torch.Tensor | None:
        """(P, P) bool, which patches see each other in a layer; None: all do."""
        return None

    def merge(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., P, width) to (..., P / merge^2, D)."""
        merger = self.visual.merger
        merged: torch.Tensor = merger.mlp(merger.ln_q(hidden).reshape(*hidden.shape[:-2], -1, merger.hidden_size))
        return merged

    def levels(self, layer: int, hidden: torch.Tensor) -> list[torch.Tensor]:
        """What is put beside the tokens after a layer, (P / merge^2, D) each."""
        return []

    def _encode(self, patches: torch.Tensor, rows: slice | torch.Tensor, attention: Attention) -> torch.Tensor:
        hidden = self.embed(patches, rows)
        levels: list[torch.Tensor] = []
        for layer, block in enumerate(self.visual.blocks):
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), layer, rows, attention)
            hidden = hidden + block.mlp(block.norm2(hidden))
            levels += self.levels(layer, hidden)
        tokens = self.merge(hidden)
        return torch.cat([tokens, *levels], dim=-1) if levels else tokens

    def _attend(
        self, layers: Any, hidden: torch.Tensor, layer: int, rows: slice | torch.Tensor, attention: Attention
    ) -> torch.Tensor:
        heads = layers.num_heads
        q, k, v = layers.qkv(hidden).unflatten(-1, (3, heads, -1)).unbind(-3)  # each (..., P, heads, head_dim)
        four = (-1, hidden.shape[-2], heads, q.shape[-1])  # the exporter takes no other number of axes
        cos, sin = self.cos[rows], self.sin[rows]
        q, k, v = (x.reshape(four).transpose(1, 2) for x in (_rotate(q, cos, sin), _rotate(k, cos, sin), v))
        mask = self.mask(layer)
        mixed = attention(q, k, v, None if mask is None else mask[rows])
        out: torch.Tensor = layers.proj(mixed.transpose(1, 2).reshape(hidden.shape))
        return out


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


class Qwen2VL(Family):
    """Qwen2-VL, and what its successors share with it."""

    name = "qwen2_vl"
    model_class = "Qwen2VLForConditionalGeneration"
    positions = "mrope"
    grids = "any"
    step_encoder: type[StepEncoder] = StepEncoder

    def cell(self, checkpoint: Checkpoint) -> int:
        """Patch * merge."""
        return int(checkpoint.setting("patch_size")) * int(checkpoint.setting("merge_size"))

    def tokens(self, checkpoint: Checkpoint) -> int:
        """Those of a square of `SIDE` pixels."""
        tokens: int = (SIDE // self.cell(checkpoint)) ** 2
        return tokens

    def vision(self, checkpoint: Checkpoint, size: tuple[int, int] | None, frames_per_step: int | None) -> Vision:
        """Any multiple of patch * merge; one or two frames per step."""
        patch, merge, most = (
            int(checkpoint.setting(key)) for key in ("patch_size", "merge_size", "temporal_patch_size")
        )
        cell = patch * merge
        height, width = size or self.size(checkpoint)
        check_cells(height, width, cell)
        frames = frames_per_step or most
        if frames not in (1, most):
            raise ScoreEdgeError(f"a step of {self.name} has 1 or {most} frames, not {frames}")
        return Vision(
            graph=ENCODER,
            height=height,
            width=width,
            patch=patch,
            merge=merge,
            frames_per_step=frames,
            fps=float(checkpoint.setting("fps", 2.0)),
            dim=self.dim(checkpoint.config),
            grid=(height // cell, width // cell),
            letterbox=True,
            **checkpoint.normalisation,
        )

    def dim(self, config: Any) -> int:
        """Floats per visual token."""
        return int(config.get_text_config().hidden_size)

    def encoder(self, model: Any, vision: Vision) -> nn.Module:
        """The encoder at one grid."""
        rows, columns = vision.height // vision.patch, vision.width // vision.patch
        return self.step_encoder(model.model.visual, rows, columns, vision.frames_per_step)

    def prompt(self, checkpoint: Checkpoint, tokenizer: Any) -> Prompt:
        """The whole clip is one block."""
        return split_chat(checkpoint, tokenizer, tokenizer.convert_ids_to_tokens(checkpoint.config.video_token_id))


FAMILY = Qwen2VL()
