"""A small encoder as an ONNX graph, with the shapes that quantisation has to tell apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

ROWS, WIDTH, HIDDEN, DIM = 12, 16, 32, 8


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., Any]:
    """patches (12, 16) -> Gemm -> LayerNorm -> MatMul + bias -> GELU -> MatMul -> attention -> tokens (12, 8).

    `outliers` makes that many channels of fc2's input 60 times larger, and its weights there as much smaller.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def make(seed: int = 0, opset: int = 18, outliers: int = 0) -> Any:
        rng = np.random.default_rng(seed)

        def weight(*shape: int) -> np.ndarray:
            return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

        weights = {
            "embed.weight": weight(WIDTH, WIDTH).T.copy(),
            "embed.bias": weight(WIDTH),
            "norm.weight": np.ones(WIDTH, np.float32),
            "norm.bias": np.zeros(WIDTH, np.float32),
            "val_7": weight(WIDTH, HIDDEN),
            "mlp.fc1.bias": weight(HIDDEN),
            "scale": np.ones(HIDDEN, np.float32),
            "val_8": weight(HIDDEN, DIM),
            "mlp.fc2.bias": weight(DIM),
            "half": np.float32(0.5),
            "one": np.float32(1),
            "root": np.float32(np.sqrt(2)),
        }
        weights["scale"][:outliers] = 60
        weights["val_8"][:outliers] /= 60
        nodes = [
            helper.make_node("Gemm", ["patches", "embed.weight", "embed.bias"], ["x0"], "embed", transB=1),
            helper.make_node("LayerNormalization", ["x0", "norm.weight", "norm.bias"], ["x1"], "norm"),
            helper.make_node("MatMul", ["x1", "val_7"], ["x2"], "node_1"),
            helper.make_node("Add", ["x2", "mlp.fc1.bias"], ["x3"], "node_2"),
            helper.make_node("Div", ["x3", "root"], ["g0"], "g0"),
            helper.make_node("Erf", ["g0"], ["g1"], "g1"),
            helper.make_node("Add", ["g1", "one"], ["g2"], "g2"),
            helper.make_node("Mul", ["x3", "g2"], ["g3"], "g3"),
            helper.make_node("Mul", ["g3", "half"], ["g4"], "g4"),
            helper.make_node("Mul", ["g4", "scale"], ["x4"], "channels"),
            helper.make_node("MatMul", ["x4", "val_8"], ["x5"], "node_3"),
            helper.make_node("Add", ["x5", "mlp.fc2.bias"], ["x6"], "node_4"),
            helper.make_node("Transpose", ["x6"], ["x7"], "turn", perm=[1, 0]),
            helper.make_node("MatMul", ["x6", "x7"], ["x8"], "attention"),
            helper.make_node("Softmax", ["x8"], ["x9"], "softmax"),
            helper.make_node("MatMul", ["x9", "x6"], ["tokens"], "values"),
        ]
        graph = helper.make_graph(
            nodes,
            "encoder",
            [helper.make_tensor_value_info("patches", TensorProto.FLOAT, [ROWS, WIDTH])],
            [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [ROWS, DIM])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model

    return make


@pytest.fixture(scope="session")
def steps() -> list[dict[str, np.ndarray]]:
    """Encoder inputs."""
    rng = np.random.default_rng(1)
    return [{"patches": rng.standard_normal((ROWS, WIDTH)).astype(np.float32)} for _ in range(8)]


@pytest.fixture
def prepared(make_encoder: Callable[..., Any], tmp_path: Any) -> Callable[..., Any]:
    """The small encoder prepared, its layers and their ranges over `given`, and a folder to work in."""

    def prepare_one(given: list[dict[str, np.ndarray]], method: Any = "minmax", **options: Any) -> Any:
        import onnx

        from score_edge.calibration.layers import find_layers
        from score_edge.calibration.quantize import expose, prepare
        from score_edge.calibration.ranges import collect_ranges
        from score_edge.onnx_files.save import save_onnx
        from score_edge.runtime.graphs.onnx_graph import OnnxGraph

        onnx.save(make_encoder(**options), tmp_path / "encoder.onnx")
        plain = prepare(tmp_path / "encoder.onnx", tmp_path)
        layers = find_layers(plain)
        names = sorted({layer.activation for layer in layers})
        save_onnx(expose(plain, names), tmp_path / "exposed.onnx")
        ranges = collect_ranges(OnnxGraph(tmp_path / "exposed.onnx"), names, given, method)
        return plain, layers, ranges, tmp_path

    return prepare_one
