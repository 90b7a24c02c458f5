import logging
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from score_edge.export.policy_graph import PolicyNetwork, export_policy  # noqa: E402
from score_edge.runtime.graphs.onnx_graph import OnnxGraph  # noqa: E402
from score_edge.selection.score import Score  # noqa: E402


def planted(gain: float) -> PolicyNetwork:
    """A policy whose raw logit is gain * x[0]."""
    policy = PolicyNetwork(4, hidden=2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
        # gelu(u) - gelu(-u) = u
        policy.layers[0].weight[:, 0] = torch.tensor([1.0, -1.0])
        policy.layers[2].weight[0] = gain * torch.tensor([1.0, -1.0])
    return policy


@pytest.mark.parametrize("gain", [1.0, 100.0])
def test_confident_tokens_are_still_ranked(gain, tmp_path):
    """A sigmoid in float32 is exactly 1 from a logit of 17 on; ranks must survive far beyond."""
    path = tmp_path / "policy.onnx"
    export_policy(planted(gain), path)
    tokens = np.zeros((161, 4), np.float32)
    tokens[:, 0] = np.linspace(-4, 4, 161)
    keep = OnnxGraph(path).run(tokens=tokens, previous=np.zeros_like(tokens))["keep"]
    assert (np.diff(keep) > 0).all()
    assert keep[0] > 0 and keep[-1] < 1


def test_the_state_that_is_never_written_down_is_the_papers():
    torch.manual_seed(2)
    policy = PolicyNetwork(6).double()
    policy.mean.normal_()
    policy.scale.uniform_(0.5, 2)
    tokens, previous = torch.randn(2, 9, 6, dtype=torch.float64)
    state = torch.cat([tokens, tokens - previous], dim=1)
    raw = policy.layers((state - policy.mean) * policy.scale)[:, 0]
    assert torch.allclose(policy(tokens, previous), torch.sigmoid(raw / (1 + raw.abs() / 8)), atol=1e-12)


def test_the_graph_has_the_contract_and_the_values_of_the_module(tmp_path):
    torch.manual_seed(1)
    policy = PolicyNetwork(6)
    policy.mean.normal_()
    export_policy(policy, tmp_path / "policy.onnx")
    tokens = torch.randn(3, 5, 6)
    expected = policy(tokens, torch.cat([torch.zeros(1, 5, 6), tokens[:-1]])).detach()
    graph = OnnxGraph(tmp_path / "policy.onnx")
    odds = Score(lambda rows, previous: graph.run(tokens=rows, previous=previous)["keep"]).score(tokens.numpy(), 1)
    assert np.allclose(1 / (1 + np.exp(-odds)), expected, atol=1e-6)


def test_the_exporter_says_nothing_to_whoever_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        export_policy(PolicyNetwork(16), tmp_path / "policy.onnx")
    assert not caplog.messages
