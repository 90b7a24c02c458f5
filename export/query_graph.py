"""The policy that knows the question: the network of `policy_graph` with a question's words in either hidden layer."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from score_edge.export.onnx_export import export_onnx
from score_edge.export.policy_graph import LIMIT
from score_edge.onnx_files.difference import Difference


class QueryNetwork(nn.Module):
    """p = sigmoid(MLP([x; x - previous; x - background], mean of the question's word vectors)); all of it ours.

    Args:
        width: D of a visual token and of a word vector.
        hidden: width of the hidden layers.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    word_scale: torch.Tensor

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * width))
        self.register_buffer("scale", torch.ones(3 * width))
        self.register_buffer("word_scale", torch.ones(()))
        self.first, self.second = nn.Linear(3 * width, hidden), nn.Linear(hidden, hidden)
        self.asked_first, self.asked_second = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.last = nn.Linear(hidden, 1)
        self.activation = nn.GELU()

    def logits(
        self, tokens: torch.Tensor, previous: torch.Tensor, background: torch.Tensor, question: torch.Tensor
    ) -> torch.Tensor:
        """(..., D) tokens, their reference rows and the question's (..., D) mean word vector -> (...) logits."""
        state = (torch.cat([tokens, tokens - previous, tokens - background], dim=-1) - self.mean) * self.scale
        asked = question * self.word_scale
        hidden = self.activation(self.first(state) + self.asked_first(asked))
        hidden = self.activation(self.second(hidden) + self.asked_second(asked))
        raw: torch.Tensor = self.last(hidden).squeeze(-1)
        return raw / (1 + raw.abs() / LIMIT)

    def forward(
        self, tokens: torch.Tensor, previous: torch.Tensor, background: torch.Tensor, question: torch.Tensor
    ) -> torch.Tensor:
        """Keep probabilities; see `logits`."""
        return torch.sigmoid(self.logits(tokens, previous, background, question))


def export_query(policy: QueryNetwork, path: Path) -> Difference:
    """Write `tokens`, `previous`, `background` (M, D), `question` (1, D) -> `keep` (M,)."""
    width = policy.mean.numel() // 3
    generator = torch.Generator().manual_seed(0)
    example: dict[str, Any] = {
        name: torch.randn(7, width, generator=generator) for name in ("tokens", "previous", "background")
    }
    dynamic: dict[str, Any] = {name: {0: "rows"} for name in example} | {"question": {}}
    example["question"] = torch.randn(1, width, generator=generator)
    return export_onnx(policy, example, "keep", path, dynamic=dynamic)[0]
