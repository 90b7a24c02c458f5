"""Every rule, broken on a graph that keeps all the others."""

import copy

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.onnx_files import rules as graph_rules

onnx = pytest.importorskip("onnx")


def lint(model) -> list[str]:
    findings = graph_rules.lint(model)
    assert all(finding.remedy for finding in findings)
    return [finding.problem for finding in findings]


@pytest.fixture(scope="module")
def made(quantised, tmp_path_factory):
    return onnx.load(quantised(Bundle.open("reference"), tmp_path_factory.mktemp("rules") / "int8").encoder_path)


@pytest.fixture
def good(made):
    return copy.deepcopy(made)


def replace(model, name: str, array: np.ndarray) -> None:
    (weight,) = (weight for weight in model.graph.initializer if weight.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, name))


def first(model, kind: str, weight: bool = False):
    names = {initializer.name for initializer in model.graph.initializer}
    return next(n for n in model.graph.node if n.op_type == kind and (n.input[0] in names) == weight)


def test_nothing_is_found_where_nothing_is_wrong(good) -> None:
    assert lint(onnx.load(Bundle.open("reference").encoder_path)) == lint(good) == []


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


@pytest.mark.parametrize("kind", ["LayerNormalization", "Softmax"])
def test_norms_and_softmax_stay_out(good, kind) -> None:
    reader = first(good, kind)
    reader.input[0] = first(good, "DequantizeLinear").output[0]
    assert any(f"feeds {kind} {reader.name}, only MatMul, Gemm, Conv" in finding for finding in lint(good))


def test_a_quantize_without_its_other_half(good) -> None:
    first(good, "Softmax").input[0] = first(good, "QuantizeLinear").output[0]
    assert any("must be followed by a DequantizeLinear" in finding for finding in lint(good))


def test_what_is_made_for_cpus_is_refused(quantised, tmp_path) -> None:
    """Unsigned activations, and the integer operators of dynamic quantisation."""
    static, dynamic = (
        lint(onnx.load(quantised(Bundle.open("reference"), tmp_path / name, name).encoder_path))
        for name in ("u8s8", "dynamic-u8s8")
    )
    assert any("must be 0" in finding for finding in static)
    assert "it has the operator MatMulInteger, which TensorRT refuses" in dynamic
