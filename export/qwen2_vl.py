"""Qwen2-VL: an encoder that merges two frames into a step, any grid, M-RoPE. Its successors share its encoder."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import Prompt, Vision
from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import ENCODER, Family, check_cells, split_chat

SIDE = 448  # of the square whose number of tokens a frame has where none is named. The models take any size.


class StepEncoder(nn.Module):
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
        hidden = self.embed(patches)
        for layer, block in enumerate(self.visual.blocks):
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), self.mask(layer))
            hidden = hidden + block.mlp(block.norm2(hidden))
        return self.merge(hidden)

    def embed(self, patches: torch.Tensor) -> torch.Tensor:
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

    def _attend(self, attention: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        heads = attention.num_heads
        q, k, v = attention.qkv(hidden).unflatten(-1, (3, heads, -1)).unbind(-3)  # each (..., P, heads, head_dim)
        four = (-1, hidden.shape[-2], heads, q.shape[-1])  # the exporter takes no other number of axes
        q, k, v = (x.reshape(four).transpose(1, 2) for x in (self._rotate(q), self._rotate(k), v))
        if mask is None:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            # Written out: torch's own, given a mask, exports a search for rows without any patch.
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            mixed = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        out: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(hidden.shape))
        return out

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos[:, None] + torch.cat([-second, first], dim=-1) * self.sin[:, None]


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
