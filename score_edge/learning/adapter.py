"""Low-rank matrices beside the linear layers of a frozen decoder (LoRA, Hu et al. 2021)."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Adapter(nn.Module):
    """Adds scale * b @ a to the weight of every linear layer of a decoder's blocks; b starts at zero.

    Args:
        decoder: of transformers, on its device; it stays as it is but for the hooks.
        rank: of the matrices.
        seed: of a.

    Attributes:
        alpha: what GGUF and peft call it; what is added is alpha / rank * b @ a.
        layers: names in the decoder, in the order of `a` (rank, inputs) and `b` (outputs, rank), float32.
    """

    def __init__(self, decoder: nn.Module, rank: int, seed: int = 0) -> None:
        super().__init__()
        self.alpha, self._on = 2.0 * rank, True
        self.layers = list[str]()
        self.a, self.b = nn.ParameterList(), nn.ParameterList()
        random = torch.Generator().manual_seed(seed)
        for name, layer in decoder.named_modules():
            if isinstance(layer, nn.Linear) and name.startswith("layers."):
                device = layer.weight.device
                start = torch.randn(rank, layer.in_features, generator=random) / layer.in_features**0.5
                layer.register_forward_hook(functools.partial(self._add, len(self.layers)))
                self.layers.append(name)
                self.a.append(nn.Parameter(start.to(device)))
                self.b.append(nn.Parameter(torch.zeros(layer.out_features, rank, device=device)))

    def matrices(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """a and b by the layer's name."""
        return {name: (a, b) for name, a, b in zip(self.layers, self.a, self.b, strict=True)}

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The decoder is as it was meanwhile."""
        self._on = False
        try:
            yield
        finally:
            self._on = True

    def _add(self, i: int, layer: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not self._on:
            return output
        a, b = self.a[i], self.b[i]
        low = functional.linear(inputs[0].to(a.dtype), a)
        return output + (self.alpha / len(a) * functional.linear(low, b)).to(output.dtype)
