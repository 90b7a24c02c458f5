"""The policy network as a graph: tokens and the tokens before them in, keep probabilities out."""

from pathlib import Path

import torch
from torch import nn

from score_edge.export.onnx_graph import Difference, export_onnx


class Policy(nn.Module):
    """SCORE's token-local policy: p = sigmoid(MLP([x; x - previous])) (arXiv 2603.26365, method figure).

    Width, depth and the normalisation of the input are not published; these are ours.

    Args:
        width: D of a visual token.
        hidden: width of the hidden layer.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2 * width))
        self.register_buffer("scale", torch.ones(2 * width))
        self.layers = nn.Sequential(nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def logits(self, tokens: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """(..., D) tokens and their reference rows -> (...) logits of keeping."""
        state = torch.cat([tokens, tokens - previous], dim=-1)
        logits: torch.Tensor = self.layers((state - self.mean) * self.scale).squeeze(-1)
        return logits

    def forward(self, tokens: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Keep probabilities, same shapes as `logits`."""
        return torch.sigmoid(self.logits(tokens, previous))


def export_policy(policy: Policy, path: Path) -> Difference:
    """Write `tokens` (M, D), `previous` (M, D) -> `keep` (M,), the contract of the selector `score`."""
    width = policy.mean.numel() // 2
    generator = torch.Generator().manual_seed(0)
    example = {name: torch.randn(7, width, generator=generator) for name in ("tokens", "previous")}
    rows = {0: "rows"}
    return export_onnx(policy, example, "keep", path, dynamic={"tokens": rows, "previous": rows})[0]
