"""What is quantised and what stays, and that the result is the arithmetic of INT8 in numpy float64."""

import numpy as np
import pytest

from score_edge.calibration.layers import find_layers
from score_edge.calibration.quantize import VARIANTS, prepare, quantize
from score_edge.calibration.ranges import Range
from score_edge.calibration.simulate import Switchboard, simulate
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.rules import lint
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

onnx = pytest.importorskip("onnx")
STATIC = [name for names in VARIANTS.values() for name in names if not name.startswith("dynamic")]


def rounded(x: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    return np.clip(np.round(x / scale), -128, 127) * scale


def expected_tokens(model, ranges, patches: np.ndarray, on: set[str]) -> np.ndarray:
    """The small encoder of conftest in float64, layers in `on` on values rounded to INT8."""
    from math import erf, sqrt

    weights = {w.name: onnx.numpy_helper.to_array(w).astype(np.float64) for w in model.graph.initializer}

    def product(name: str, tensor: str, x: np.ndarray, weight: np.ndarray) -> np.ndarray:  # weight: (in, out)
        if name in on:
            x = rounded(x, max(abs(ranges[tensor].low), abs(ranges[tensor].high)) / 127)
            weight = rounded(weight, np.abs(weight).max(axis=0) / 127)
        return x @ weight

    x = product("embed", "patches", patches.astype(np.float64), weights["embed.weight"].T) + weights["embed.bias"]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    x = product("mlp.fc1", "x1", x, weights["val_7"]) + weights["mlp.fc1.bias"]
    x = 0.5 * x * (1 + np.vectorize(erf)(x / sqrt(2))) * weights["scale"]
    x = product("mlp.fc2", "x4", x, weights["val_8"]) + weights["mlp.fc2.bias"]
    scores = np.exp(x @ x.T - (x @ x.T).max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True) @ x


@pytest.mark.parametrize("on", [set(), {"embed"}, {"mlp.fc1"}, {"mlp.fc2"}, {"embed", "mlp.fc1", "mlp.fc2"}])
def test_a_switched_simulation_is_int8_in_float64(make_encoder, prepared, steps, on: set[str]) -> None:
    plain, layers, ranges, folder = prepared(steps)
    board = Switchboard(quantize(plain, layers, ranges, "s8s8", folder), plain, layers, folder / "board.onnx")
    original = make_encoder()
    for inputs in steps:
        want = expected_tokens(original, ranges, inputs["patches"], on)
        # One value may lie on the edge between two levels and round the other way in float32.
        assert np.linalg.norm(board.run(inputs, on) - want) / np.linalg.norm(want) < 2e-3


def test_all_switches_on_is_the_simulation_without_switches(prepared, steps) -> None:
    plain, layers, ranges, folder = prepared(steps)
    quantised = quantize(plain, layers, ranges, "s8s8", folder)
    board = Switchboard(quantised, plain, layers, folder / "board.onnx")
    save_onnx(simulate(quantised, plain, layers, switched=False), folder / "exact.onnx")
    found = OnnxGraph(folder / "exact.onnx").run(**steps[0])["tokens"]
    np.testing.assert_array_equal(found, board.run(steps[0], board.layers))


def test_an_exact_graph_is_the_simulation(prepared, steps) -> None:
    """What engines are compared with, on CPUs whose integer kernels overflow too."""
    plain, layers, ranges, folder = prepared(steps)
    quantised = quantize(plain, layers, ranges, "s8s8", folder)
    save_onnx(quantised, folder / "quantised.onnx")
    save_onnx(simulate(quantised, plain, layers, switched=False), folder / "simulated.onnx")
    exact, simulated = OnnxGraph(folder / "quantised.onnx", simulate=True), OnnxGraph(folder / "simulated.onnx")
    for inputs in steps:
        np.testing.assert_allclose(exact.run(**inputs)["tokens"], simulated.run(**inputs)["tokens"], atol=1e-5)


def test_the_tensorrt_form_passes_the_linter_and_leaves_the_rest_alone(prepared, steps) -> None:
    plain, layers, ranges, folder = prepared(steps)
    made = quantize(plain, layers, ranges, "s8s8", folder)
    assert lint(made) == []
    assert {node.op_type for node in made.graph.node} - {node.op_type for node in plain.graph.node} == {
        "QuantizeLinear",
        "DequantizeLinear",
    }
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) == len(layers)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("variant", [name for names in VARIANTS.values() for name in names])
def test_every_variant_keeps_the_opset_and_stays_near(prepared, steps, variant, opset) -> None:
    plain, layers, ranges, folder = prepared(steps, opset=opset)
    made = quantize(plain, layers, ranges, variant, folder)
    assert [entry.version for entry in made.opset_import if entry.domain == ""] == [opset]
    assert {entry.domain for entry in made.opset_import} <= {"", "com.microsoft"}
    save_onnx(made, folder / "made.onnx")
    tokens, before = (OnnxGraph(folder / f"{name}.onnx").run(**steps[0])["tokens"] for name in ("made", "encoder"))
    assert 0 < np.linalg.norm(tokens - before) / np.linalg.norm(before) < 0.2


@pytest.mark.parametrize("variant", STATIC)
def test_a_layer_left_out_keeps_its_weights(prepared, steps, variant) -> None:
    plain, layers, ranges, folder = prepared(steps)
    made = quantize(plain, layers[1:], ranges, variant, folder)
    kept = {weight.name for weight in made.graph.initializer}
    assert layers[0].weight in kept and layers[1].weight not in kept


@pytest.mark.parametrize("variant", STATIC)
def test_a_layer_left_out_reads_what_it_read(variant, tmp_path) -> None:
    """Queries, keys and values read one tensor: of two such layers the one in FP32 goes on reading it unrounded."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), f"{name}.weight") for name in "qk"]
    nodes = [helper.make_node("MatMul", ["x", f"{name}.weight"], [name], name) for name in "qk"]
    ends = [helper.make_tensor_value_info(name, float32, [2, 4]) for name in "xqk"]
    graph = helper.make_graph(nodes, "heads", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    layers = find_layers(model)
    made = quantize(model, layers[:1], {"x": Range(-1, 1, 8)}, variant, tmp_path)
    save_onnx(made, tmp_path / "made.onnx")
    x = np.random.default_rng(0).uniform(-1, 1, (2, 4)).astype(np.float32)
    found = OnnxGraph(tmp_path / "made.onnx").run(x=x)
    assert np.array_equal(found["k"], x) and 0 < np.abs(found["q"] - x).max() < 0.02


def test_no_layers_is_the_same_graph(prepared, steps) -> None:
    plain, _, ranges, folder = prepared(steps)
    assert quantize(plain, [], ranges, "s8s8", folder) == plain


def test_a_quantised_graph_is_refused(prepared, steps) -> None:
    plain, layers, ranges, folder = prepared(steps)
    save_onnx(quantize(plain, layers, ranges, "s8s8", folder), folder / "again.onnx")
    with pytest.raises(ScoreEdgeError, match="already quantised: it has DequantizeLinear, QuantizeLinear"):
        prepare(folder / "again.onnx", folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value, make_encoder, tmp_path) -> None:
    model = make_encoder()
    (weight,) = (w for w in model.graph.initializer if w.name == "embed.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 16), value, np.float32), "embed.weight"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ScoreEdgeError, match=r"embed.weight of nan.onnx holds values that are not finite"):
        prepare(tmp_path / "nan.onnx", tmp_path)


def test_an_attention_mask_of_minus_infinity_is_no_broken_weight(make_encoder, tmp_path) -> None:
    """Qwen2.5-VL's windows are such a constant."""
    model = make_encoder()
    mask = np.where(np.arange(12)[:, None] // 6 == np.arange(12) // 6, 0, -np.inf).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(mask, "mask"))
    place, softmax = next((i, node) for i, node in enumerate(model.graph.node) if node.name == "softmax")
    softmax.input[0] = "masked"
    model.graph.node.insert(place, onnx.helper.make_node("Add", ["x8", "mask"], ["masked"], "windows"))
    onnx.save(model, tmp_path / "windows.onnx")
    assert any(weight.name == "mask" for weight in prepare(tmp_path / "windows.onnx", tmp_path).graph.initializer)


@pytest.mark.parametrize(("opset", "words"), [(20, "opset 20")])
def test_an_opset_that_tensorrt_cannot_read(make_encoder, tmp_path, opset, words) -> None:
    onnx.save(make_encoder(opset=opset), tmp_path / "new.onnx")
    with pytest.raises(ScoreEdgeError, match=words):
        prepare(tmp_path / "new.onnx", tmp_path)


def test_half_precision_is_refused(make_encoder, tmp_path) -> None:
    model = make_encoder()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2, np.float16), "half_weight"))
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(ScoreEdgeError, match="half precision"):
        prepare(tmp_path / "half.onnx", tmp_path)


def test_a_residual_sum_is_not_rounded_with_the_layer_it_passes(tmp_path) -> None:
    from onnx import TensorProto, helper

    from score_edge.calibration.layers import find_layers
    from score_edge.calibration.ranges import Range

    weights = [
        onnx.numpy_helper.from_array(np.random.default_rng(i).standard_normal((4, 4, 1, 1)).astype(np.float32), name)
        for i, name in enumerate(("a.weight", "b.weight"))
    ]
    nodes = [
        helper.make_node("Conv", ["pixels", "a.weight"], ["middle"], "a"),
        helper.make_node("Conv", ["middle", "b.weight"], ["beside"], "b"),
        helper.make_node("Add", ["middle", "beside"], ["tokens"], "sum"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 3, 3]) for name in ("pixels", "tokens")]
    graph = helper.make_graph(nodes, "residual", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    layers = find_layers(model)
    made = quantize(model, layers, {name: Range(-1.0, 1.0, 36) for name in ("pixels", "middle")}, "s8s8", tmp_path)
    assert list(next(node for node in made.graph.node if node.name == "sum").input) == ["middle", "beside"]
    assert not list(lint(made))
