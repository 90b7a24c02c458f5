"""The policy network as a graph: tokens and the tokens before them in, keep probabilities out."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.export.onnx_export import export_onnx
from score_edge.onnx_files.difference import Difference

LIMIT = 8.0  # no logit leaves (-LIMIT, LIMIT): beyond about 16 a float32 sigmoid is exactly 1, and ranks are lost


class PolicyNetwork(nn.Module):
    """SCORE's token-local policy: p = sigmoid(MLP([x; x - previous])) (arXiv 2603.26365, method figure).

    Width, depth, the normalisation of the input and the bound on the logits are not published; these are ours.

    Args:
        width: D of a visual token.
        hidden: width of the hidden layer.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * width))
        self.register_buffer("scale", torch.ones(2 * width))
        self.layers = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def logits(self, tokens: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """(..., D) tokens and their reference rows -> (...) logits of keeping.

        W [x; x - previous] is computed as (Wx + Wd) x - Wd previous, the normalisation folded into W: the state is
        never written down, which takes a third of the time.

        Logits are bounded by LIMIT and strictly increasing in the last layer's output; tanh in place of the quotient
        would itself saturate, and tie, from ten times the limit on.
        """
        layers: Any = self.layers  # a Sequential's parts are of no particular type
        first, activation, last = layers
        of_token, of_change = (first.weight * self.scale).chunk(2, dim=1)
        shift = first.bias - (first.weight * self.scale) @ self.mean
        hidden = functional.linear(tokens, of_token + of_change, shift) - functional.linear(previous, of_change)
        raw: torch.Tensor = last(activation(hidden)).squeeze(-1)
        return raw / (1 + raw.abs() / LIMIT)

    def forward(self, tokens: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Keep probabilities, same shapes as `logits`."""
        return torch.sigmoid(self.logits(tokens, previous))


def export_policy(policy: PolicyNetwork, path: Path) -> Difference:
    """Write `tokens` (M, D), `previous` (M, D) -> `keep` (M,), the contract of the selector `score`."""
    width = policy.mean.numel() // 2
    generator = torch.Generator().manual_seed(0)
    example = {name: torch.randn(7, width, generator=generator) for name in ("tokens", "previous")}
    rows = {0: "rows"}
    return export_onnx(policy, example, "keep", path, dynamic={"tokens": rows, "previous": rows})[0]
