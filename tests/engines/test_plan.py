"""What becomes of a graph before TensorRT sees it, judged by ONNX Runtime."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import REFERENCE, Bundle, write_bundle
from score_edge.engines.plan import POLICY_ROWS, plan_graphs, prepare
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.sources.sample_steps import cells_of, sample_steps
from score_edge.selection import score

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open("reference")


def with_encoder(bundle: Bundle, folder: Path, model: Any) -> Bundle:
    """A bundle whose encoder is another graph."""
    return write_bundle(folder, bundle.manifest, {**bundle.paths, "encoder.onnx": model.SerializeToString()})


def opset(path: Path) -> int:
    return int(onnx.load(path).opset_import[0].version)


def tokens(path: Path, step: dict[str, Any]) -> Any:
    return OnnxGraph(path, threads=1).run(**step)["tokens"]


def test_fp16_lies_in_the_file_where_networks_are_strongly_typed(bundle, tmp_path):
    encoder, incremental, policy = plan_graphs(bundle)
    assert [plan.precision for plan in (encoder, incremental, policy)] == ["fp16", "fp16", "fp32"]
    half = prepare(encoder, tmp_path, typed=True, newest_opset=20)
    kinds = {tensor.data_type for tensor in onnx.load(half).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    (step, *_) = sample_steps(bundle.manifest.vision, None)
    found, expected = tokens(half, step), tokens(bundle.encoder_path, step)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()
    # The builder's flag does it elsewhere, and the policy stays as it is everywhere.
    assert prepare(encoder, tmp_path, typed=False, newest_opset=20) == bundle.encoder_path
    assert prepare(policy, tmp_path, typed=True, newest_opset=20) == bundle.policy_path


def test_opset_17_for_tensorrt_8_computes_the_same(bundle, tmp_path):
    plans = plan_graphs(bundle, "fp32")
    older = {plan.graph: prepare(plan, tmp_path, typed=False, newest_opset=17) for plan in plans}
    assert {graph: opset(path) for graph, path in older.items()} == {"encoder": 17, "incremental": 17, "policy": 17}
    for path in older.values():
        onnx.checker.check_model(str(path), full_check=True)
    vision = bundle.manifest.vision
    (step, *_) = sample_steps(vision, None)
    np.testing.assert_array_equal(tokens(older["encoder"], step), tokens(bundle.encoder_path, step))
    found = []
    for path in (older["incremental"], bundle.graphs["incremental"]):
        graph = OnnxGraph(path, threads=1)
        cache, cells = graph.start(), np.arange(0, vision.token_grid.tokens, 3)
        for _ in range(2):
            found.append(graph.run_cached(cache, patches=cells_of(vision, step)[cells], cells=cells)["tokens"])
    np.testing.assert_array_equal(found[:2], found[2:])


def test_an_operator_that_was_another_one_is_named(bundle, tmp_path):
    model = onnx.load(bundle.encoder_path)
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["tokens"], ["mean"], "mean"))
    plan = plan_graphs(with_encoder(bundle, tmp_path / "changed", model))[0]
    with pytest.raises(ScoreEdgeError, match="of opset 18; in opset 17 ReduceMean was another operator"):
        prepare(plan, tmp_path, typed=False, newest_opset=17)


def test_int8_needs_a_calibrated_encoder(bundle):
    with pytest.raises(ScoreEdgeError, match="has no quantised layers") as caught:
        plan_graphs(bundle, "int8")
    assert caught.value.hint.startswith("score-edge calibrate reference --video")


def test_a_calibrated_encoder_stays_int8(bundle, quantised, tmp_path):
    made = quantised(bundle, tmp_path / "int8")
    encoder = plan_graphs(made)[0]
    assert (encoder.made_as, encoder.precision) == ("int8", "int8")
    assert plan_graphs(made, "int8")[0] == encoder
    for precision in ("fp16", "fp32"):
        with pytest.raises(ScoreEdgeError, match=f"is quantised, there is no way back to {precision}") as caught:
            plan_graphs(made, precision)
        assert "build the bundle that it was calibrated from" in caught.value.hint


@pytest.mark.parametrize("precision", [None, "int8", "fp16"])
def test_an_encoder_calibrated_for_cpus_is_no_engine(bundle, quantised, tmp_path, precision):
    made = quantised(bundle, tmp_path / "cpu", "u8s8")
    with pytest.raises(
        ScoreEdgeError, match=r"calibrated with --form int8-cpu \(u8s8\).*no TensorRT reads it"
    ) as caught:
        plan_graphs(made, precision)
    assert "--form int8" in caught.value.hint


def test_a_half_encoder_stays_half(bundle, tmp_path):
    half = prepare(plan_graphs(bundle)[0], tmp_path, typed=True, newest_opset=20)
    halved = with_encoder(bundle, tmp_path / "half", onnx.load(half))
    plan = plan_graphs(halved)[0]
    assert (plan.made_as, plan.precision) == ("fp16", "fp16")
    assert prepare(plan, tmp_path / "none", typed=True, newest_opset=20) == halved.encoder_path
    with pytest.raises(ScoreEdgeError, match="was exported in fp16"):
        plan_graphs(halved, "fp32")


def test_an_operator_no_tensorrt_reads_is_refused_before(bundle, tmp_path):
    model = onnx.load(bundle.encoder_path)
    model.graph.node.append(onnx.helper.make_node("Unique", ["tokens"], ["unique"], "unique"))
    with pytest.raises(ScoreEdgeError, match="has the operator Unique") as caught:
        plan_graphs(with_encoder(bundle, tmp_path / "changed", model))
    assert "depends on the data" in caught.value.hint


def test_a_file_that_is_no_graph(bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(REFERENCE, folder)
    (folder / "encoder.onnx").write_bytes(b"garbage")
    with pytest.raises(ScoreEdgeError, match="cannot be read as ONNX"):
        plan_graphs(Bundle(folder, bundle.manifest))


def test_the_policy_engine_takes_as_many_rows_as_a_selector_hands_over():
    assert POLICY_ROWS >= score._ROWS
