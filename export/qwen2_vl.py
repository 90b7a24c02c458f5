"""Qwen2-VL's vision tower as a graph: the patches of one step in, its visual tokens out."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel


class StepEncoder(nn.Module):
    """The tower of a Qwen2-VL checkpoint with the grid of one step baked in.

    The tower attends within a step only, so a fixed grid needs none of its data-dependent splitting by `cu_seqlens`
    (which cannot be exported): one step is one full attention, and a batch of steps is a batch axis.

    Args:
        visual: the checkpoint's own tower; its weights are used as they are.
        height, width: patches per side, before merging.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, visual: "Qwen2VisionTransformerPretrainedModel", height: int, width: int) -> None:
        super().__init__()
        self.visual = visual
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
        batch = patches.shape[:-2]
        # The tower's Conv3d has kernel = stride = patch: a matrix product, five times faster as one.
        hidden = functional.linear(patches, self.visual.patch_embed.proj.weight.flatten(1))
        for block in self.visual.blocks:
            hidden = hidden + self._attend(block.attn, block.norm1(hidden))
            hidden = hidden + block.mlp(block.norm2(hidden))
        merger = self.visual.merger
        merged: torch.Tensor = merger.mlp(merger.ln_q(hidden).reshape(*batch, -1, merger.hidden_size))
        return merged

    def _attend(self, attention: Any, hidden: torch.Tensor) -> torch.Tensor:
        heads = attention.num_heads
        q, k, v = attention.qkv(hidden).unflatten(-1, (3, heads, -1)).unbind(-3)  # each (..., P, heads, head_dim)
        four = (-1, hidden.shape[-2], heads, q.shape[-1])  # the exporter takes no other number of axes
        q, k, v = (x.reshape(four).transpose(1, 2) for x in (self._rotate(q), self._rotate(k), v))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = attention.proj(mixed.transpose(1, 2).reshape(hidden.shape))
        return out

    def _rotate(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos[:, None] + torch.cat([-second, first], dim=-1) * self.sin[:, None]
