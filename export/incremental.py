"""The incremental graph: some cells of a step are encoded, keys and values of the others come from a cache.

A cell is what yields one visual token. Which cells are encoded is decided once per step and holds for all layers, so a
cell that is not encoded needs no hidden state: what the others see of it are its keys and values, from when it was last
encoded. With all cells active nothing of the cache is used, and the tokens are those of the plain graph.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isclose
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.manifest import FileRef, Incremental, Vision
from score_edge.export.onnx_export import Example, Precision, export_onnx
from score_edge.onnx_files.difference import Difference
from score_edge.runtime.preprocess import Preprocessing

INCREMENTAL = FileRef("incremental.onnx")

Attention: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Queries, keys, values (B, heads, n, head_dim) and a mask (n, n) bool or None to what they mix, as the queries."""


class CellEncoder(nn.Module, ABC):
    """A vision encoder whose layers look at one patch at a time but for their attention.

    Its forward is the plain graph. Convolutional encoders are none: a patch is a neighbour's input there.
    """

    @abstractmethod
    def cache(self) -> Incremental:
        """How large the cache of the incremental graph is."""

    @abstractmethod
    def encode_cells(self, patches: torch.Tensor, cells: torch.Tensor, attention: "CachedAttention") -> torch.Tensor:
        """Encode some cells.

        Args:
            patches: (c, M, C), the patches of each cell, see `Preprocessing.cell_patches`.
            cells: (c,) int64.
            attention: to be called once per layer; `attention.rows` says which row of the cache each patch has.

        Returns:
            (c, D) tokens.
        """


class CachedAttention:
    """Attention of the patches encoded now over all patches.

    Args:
        keys, values: (rows, heads * head_dim) of each layer.

    Attributes:
        rows: (n,) int64, where in the cache each of the patches belongs; set before the first layer.
        new_keys, new_values: the caches with these patches in their places, layer by layer.
    """

    rows: torch.Tensor

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        self._keys, self._values = keys, values
        self.new_keys: list[torch.Tensor] = []
        self.new_values: list[torch.Tensor] = []

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `Attention`, with B = 1; the mask is (n, rows)."""
        layer, heads = len(self.new_keys), q.shape[1]
        for cache, fresh, kept in (
            (self._keys[layer], k, self.new_keys),
            (self._values[layer], v, self.new_values),
        ):
            kept.append(cache.index_copy(0, self.rows, fresh[0].transpose(0, 1).flatten(1)))
        k, v = (
            rows.unflatten(1, (heads, -1)).transpose(0, 1)[None] for rows in (self.new_keys[-1], self.new_values[-1])
        )
        return attend(q, k, v, mask)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Plain softmax attention, see `Attention`."""
    if mask is None:
        return functional.scaled_dot_product_attention(q, k, v)
    # Written out: torch's own, given a mask, exports a search for rows without any patch.
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    mixed: torch.Tensor = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
    return mixed


@contextmanager
def attention_of(config: Any, attention: CachedAttention) -> Iterator[None]:
    """Layers of transformers with this configuration call `attention` in place of their own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def forward(
        module: nn.Module,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: None,
        scaling: float | None = None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        if scaling is not None and not isclose(scaling, q.shape[-1] ** -0.5):  # Gemma's is 1
            q = q * (scaling * q.shape[-1] ** 0.5)
        return attention(q, k, v).transpose(1, 2), None

    before = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("score_edge_cached", forward)
    config._attn_implementation = "score_edge_cached"
    try:
        yield
    finally:
        config._attn_implementation = before


class IncrementalEncoder(nn.Module):
    """The incremental graph of an encoder, from its own weights."""

    def __init__(self, encoder: CellEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, patches: torch.Tensor, cells: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Encode some cells.

        Args:
            patches: (c, M, C) of the cells.
            cells: (c,) int64.
            keys, values: (rows, width) of each layer.

        Returns:
            (c, D) tokens, then the keys and the values of each layer with these cells encoded.
        """
        attention = CachedAttention(keys, values)
        tokens = self.encoder.encode_cells(patches, cells, attention)
        return tokens, *attention.new_keys, *attention.new_values


def cell_table(vision: Vision) -> torch.Tensor:
    """(N, M) int64, the patches of each cell in raster order."""
    return torch.from_numpy(Preprocessing.of(vision).cell_patches())


def as_product(filters: nn.Conv2d, patches: torch.Tensor) -> torch.Tensor:
    """A convolution whose kernel is its stride, of patches (..., C) that were cut before."""
    return functional.linear(patches, filters.weight.flatten(1), filters.bias)


def export_incremental(
    encoder: CellEncoder,
    vision: Vision,
    path: Path,
    *,
    precision: Precision = "fp32",
    tolerance: float | None = None,
) -> list[Difference]:
    """Write the incremental graph, and compare it with torch: a few cells over a random cache, one cell, and all.

    Args:
        encoder: whose plain graph is exported too.
        vision: sizes.
        path: the .onnx file to write.
        precision, tolerance: see `export_onnx`.

    Raises:
        ScoreEdgeError: ONNX Runtime and torch disagree.
    """
    cache, generator = encoder.cache(), torch.Generator().manual_seed(0)
    cells = vision.token_grid.tokens

    def some(count: int) -> Example:
        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        return {
            "patches": random(count, vision.merge**2, vision.patch_values),
            "cells": torch.randperm(cells, generator=generator)[:count],
            "keys": [random(cache.rows, cache.width) for _ in range(cache.layers)],
            "values": [random(cache.rows, cache.width) for _ in range(cache.layers)],
        }

    free = {0: "cells"}
    return export_onnx(
        IncrementalEncoder(encoder),
        some(max(2, cells // 3)),
        ["tokens", *(f"new_{name}" for name in cache.caches)],
        path,
        dynamic={"patches": free, "cells": free},
        precision=precision,
        tolerance=tolerance,
        data={"one cell": [some(1)], "all cells": [some(cells)]},
    )
