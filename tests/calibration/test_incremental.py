"""The layers of the incremental graph are those of the plain one, and its frames are those it was calibrated on."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.calibration import change_threshold, incremental
from score_edge.calibration.incremental import quantize_incremental
from score_edge.calibration.layers import find_layers
from score_edge.calibration.ranges import Range
from score_edge.calibration.trials import Bench
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.pipeline import Pipeline

onnx = pytest.importorskip("onnx")
WIDTH = 8


def chain(weights: list[np.ndarray]) -> Any:
    """Products one behind the other, numbered through, none of which knows its name in the checkpoint."""
    helper = onnx.helper
    names = [f"x{i}" for i in range(len(weights))] + ["tokens"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"val_{i}"], [names[i + 1]], f"node_linear_{i}")
        for i in range(len(weights))
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, WIDTH]) for name in ("x0", "tokens")]
    initializers = [onnx.numpy_helper.from_array(weight, f"val_{i}") for i, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_layers_without_a_name_are_found_by_their_weights(tmp_path: Path) -> None:
    """Gemma's have no bias that would name them, and its patch embedding is a product in one graph only."""
    rng = np.random.default_rng(0)
    embed, first, second = (rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for _ in range(3))
    plain = chain([first, second])
    onnx.save(chain([embed, first, second]), tmp_path / "incremental.onnx")
    ranges = {"x0": Range(-1, 1, 32), "x1": Range(-100, 100, 32)}
    none: Any = None
    bench = Bench(plain, find_layers(plain), ranges, none, [], [], none, tmp_path)
    made = quantize_incremental(tmp_path / "incremental.onnx", bench, "s8s8", [])
    graph = onnx.load(made.path).graph
    scales = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    found = {node.input[0]: float(scales[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    assert found == {"x1": pytest.approx(1 / 127), "x2": pytest.approx(100 / 127)}
    assert made.layers == 2


def test_frames_that_were_resized_are_not_resized_again() -> None:
    """SmolVLM resizes a frame twice; once more of each makes another picture of it."""
    pytest.importorskip("llama_cpp")
    bundle = Bundle.open("reference")
    vision = dataclasses.replace(bundle.manifest.vision, longest_edge=250)
    bundle = Bundle(bundle.folder, dataclasses.replace(bundle.manifest, vision=vision))
    frames = np.random.default_rng(0).integers(0, 256, (4, 120, 160, 3), dtype=np.uint8)
    with Pipeline(bundle, threads=1) as pipeline:
        steps = [pipeline.preprocessing.fit(frames[i : i + 2]) for i in (0, 2)]
        graph = OnnxGraph(bundle.encoder_path, threads=1)
        expected = np.stack([graph.run(**pipeline.preprocessing.encoder_input(step))["tokens"] for step in steps])
        (measured,), _ = incremental._encode(bundle, OnnxGraph(bundle.graphs["incremental"]), -1.0, [steps])
        tried, _ = change_threshold._encode(pipeline, steps, -1.0)
    for found in (measured, tried):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
