"""Every rule, broken on a graph that keeps all the others."""

import numpy as np
import pytest

from score_edge.calibration.qdq_lint import lint
from score_edge.calibration.quantize import quantize

onnx = pytest.importorskip("onnx")


@pytest.fixture
def good(prepared, steps):
    plain, layers, ranges, folder = prepared(steps)
    return quantize(plain, layers, ranges, "s8s8", folder)


def replace(model, name: str, array: np.ndarray) -> None:
    (weight,) = (weight for weight in model.graph.initializer if weight.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, name))


def first(model, kind: str, weight: bool = False):
    names = {initializer.name for initializer in model.graph.initializer}
    return next(n for n in model.graph.node if n.op_type == kind and (n.input[0] in names) == weight)


def test_a_graph_without_int8_has_no_findings(make_encoder) -> None:
    assert lint(make_encoder()) == []


def test_zero_point(good) -> None:
    node = first(good, "QuantizeLinear")
    replace(good, node.input[2], np.int8(3))
    assert any("the zero point is 3, must be 0" in finding for finding in lint(good))


def test_unsigned(good) -> None:
    replace(good, first(good, "QuantizeLinear").input[2], np.uint8(0))
    assert any("the type is unsigned, must be INT8" in finding for finding in lint(good))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf])
def test_scale(good, scale) -> None:
    replace(good, first(good, "QuantizeLinear").input[1], np.float32(scale))
    assert any("the scale must be finite and above 0" in finding for finding in lint(good))


def test_many_scales_of_an_activation(good) -> None:
    replace(good, first(good, "QuantizeLinear").input[1], np.ones(12, np.float32))
    assert any("an activation has 12 scales" in finding for finding in lint(good))


def test_axis(good) -> None:
    (axis,) = (a for a in first(good, "DequantizeLinear", weight=True).attribute if a.name == "axis")
    axis.i = 1 - axis.i
    assert any("needs" in finding and "along axis" in finding for finding in lint(good))


@pytest.mark.parametrize("reader", ["norm", "softmax"])
def test_norms_and_softmax_stay_out(good, reader) -> None:
    (node,) = (n for n in good.graph.node if n.name == reader)
    node.input[0] = first(good, "DequantizeLinear").output[0]
    assert any(f"{reader}, only MatMul, Gemm, Conv" in finding for finding in lint(good))


def test_a_quantize_without_its_other_half(good) -> None:
    (node,) = (n for n in good.graph.node if n.name == "softmax")
    node.input[0] = first(good, "QuantizeLinear").output[0]
    assert any("must be followed by a DequantizeLinear" in finding for finding in lint(good))


def test_onnx_runtimes_defaults_are_refused(prepared, steps) -> None:
    """Unsigned activations, and the integer operators of dynamic quantisation."""
    plain, layers, ranges, folder = prepared(steps)
    assert any("must be 0" in f or "unsigned" in f for f in lint(quantize(plain, layers, ranges, "u8s8", folder)))
    assert any("MatMulInteger" in f for f in lint(quantize(plain, layers, ranges, "dynamic-u8s8", folder)))


def test_opset(make_encoder) -> None:
    model = make_encoder()
    model.opset_import[0].version = 23
    assert lint(model) == ["opset 23: TensorRT 10 reads up to 20, 8.6 up to 17"]
