"""Graphs whose weights fit no single file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.onnx_files import save
from score_edge.onnx_files.precision import convert_to_fp16, load
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

onnx = pytest.importorskip("onnx")


def chain(width: int, weights: int) -> Any:
    """x (1, width) through square products, the same weight in each."""
    square = np.eye(width, dtype=np.float32)[::-1] / 2
    tensors = [onnx.numpy_helper.from_array(square, f"w{i}") for i in range(weights)]
    names = ["x", *(f"h{i}" for i in range(1, weights)), "y"]
    nodes = [onnx.helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], f"n{i}") for i in range(weights)]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_a_model_keeps_its_weights_when_they_are_written_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(save, "ONE_FILE", 1000)
    model = chain(32, 2)
    for name in ("one.onnx", "one.onnx", "two.onnx"):
        save_onnx(model, tmp_path / name)
        assert all(len(weight.raw_data) == 32 * 32 * 4 for weight in model.graph.initializer)
        assert (tmp_path / f"{name}.data").stat().st_size >= 2 * 32 * 32 * 4
        x = np.arange(32, dtype=np.float32)[None]
        np.testing.assert_allclose(OnnxGraph(tmp_path / name).run(x=x)["y"], x / 4, rtol=1e-6)


@pytest.mark.slow
def test_more_than_two_gigabytes_are_halved_and_written(tmp_path: Path) -> None:
    save_onnx(chain(16384, 2), tmp_path / "large.onnx")
    assert (tmp_path / "large.onnx.data").stat().st_size >= 1 << 31
    save_onnx(convert_to_fp16(load(tmp_path / "large.onnx")), tmp_path / "half.onnx")
    x = np.arange(16384, dtype=np.float32)[None] / 16384
    found = OnnxGraph(tmp_path / "half.onnx").run(x=x)["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x / 4, rtol=1e-2, atol=1e-3)
