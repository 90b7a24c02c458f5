"""Layers under the names of the checkpoint, and patterns that pick some."""

import numpy as np
import pytest

from score_edge.calibration.layers import Layer, find_layers, pick
from score_edge.errors import ScoreEdgeError


def test_layers_are_named_as_in_the_checkpoint(make_encoder) -> None:
    layers = find_layers(make_encoder())
    assert [(layer.name, layer.node, layer.products) for layer in layers] == [
        ("embed", "embed", 16),
        ("mlp.fc1", "node_1", 32),
        ("mlp.fc2", "node_3", 8),
    ]


@pytest.mark.parametrize(
    ("weight", "settings", "values", "multiplications"),
    [
        ((8, 3, 4, 4), {"strides": [4, 4]}, 3 * 16 * 16, 8 * 4 * 4 * 3 * 16),  # patches
        ((6, 1, 3, 3), {"group": 6, "pads": [1] * 4}, 6 * 16 * 16, 6 * 16 * 16 * 9),  # FastViT's depthwise ones
        ((12, 6, 1, 1), {}, 6 * 16 * 16, 12 * 16 * 16 * 6),
    ],
)
def test_the_work_of_a_convolution(weight, settings, values, multiplications) -> None:
    onnx = pytest.importorskip("onnx")
    filters = onnx.numpy_helper.from_array(np.zeros(weight, np.float32), "filters.weight")
    node = onnx.helper.make_node("Conv", ["x", "filters.weight"], ["y"], "node", **settings)
    (layer,) = find_layers(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [filters])))
    assert values * layer.products == multiplications


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["blocks.*.fc1"], {"blocks.0.fc1", "blocks.1.fc1"}),
        (["fc2"], {"blocks.0.fc2"}),
        (["node_0", "blocks.1.fc1"], {"blocks.0.fc1", "blocks.1.fc1"}),
        ([], set()),
    ],
)
def test_patterns(patterns: list[str], names: set[str]) -> None:
    known = ["blocks.0.fc1", "blocks.1.fc1", "blocks.0.fc2"]
    layers = [Layer(name, f"node_{i}", "x", "w", 4, "Gemm") for i, name in enumerate(known)]
    assert pick(layers, patterns) == names


def test_a_pattern_without_a_layer_names_the_nearest() -> None:
    with pytest.raises(ScoreEdgeError, match=r"'mlp\.fc3'") as caught:
        pick([Layer("mlp.fc1", "n", "x", "w", 4, "Gemm")], ["mlp.fc3"])
    assert "did you mean mlp.fc1?" in caught.value.hint
