from pathlib import Path

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.statistics import graph_stats

onnx = pytest.importorskip("onnx")


def test_counts_by_hand(tmp_path: Path) -> None:
    """Conv (1, 3, 8, 8) -> (1, 5, 4, 4), reshaped to (5, 16), MatMul to (5, 7), Gemm with transA to (7, 2)."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shapes = {"filters": (5, 3, 2, 2), "matrix": (16, 7), "last": (5, 2), "bias": (2,)}
    weights = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in shapes.items()]
    weights.append(onnx.numpy_helper.from_array(np.array([5, 16]), "shape"))
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["a"], strides=[2, 2]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("MatMul", ["b", "matrix"], ["c"]),
        helper.make_node("Gemm", ["c", "last", "bias"], ["y"], transA=1),
    ]
    takes = [helper.make_tensor_value_info("x", kind, [1, 3, 8, 8])]
    gives = [helper.make_tensor_value_info("y", kind, [7, 2])]
    graph = helper.make_graph(nodes, "test", takes, gives, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "g.onnx")
    found = graph_stats(tmp_path / "g.onnx")
    assert found.opset == 18
    assert found.ops == {"Conv": 1, "Reshape": 1, "MatMul": 1, "Gemm": 1}
    assert found.parameters == 60 + 112 + 10 + 2 + 2
    assert found.macs == (5 * 4 * 4) * (3 * 2 * 2) + (5 * 7) * 16 + (7 * 2) * 5


def test_a_damaged_graph(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(ScoreEdgeError, match="is no ONNX graph"):
        graph_stats(tmp_path / "g.onnx")
