"""A graph as one of an older opset: what another operator was then is refused, what was the same goes."""

from typing import Any

import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.precision import to_older_opset

onnx = pytest.importorskip("onnx")


def graph(width: int, parts: int, *more: Any) -> Any:
    """Opset 18, in which a Split may be told how many parts there are, and the last may be smaller."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    names = [f"part{i}" for i in range(parts)]
    split = helper.make_node("Split", ["x"], names, axis=0, num_outputs=parts)
    made = helper.make_graph(
        [split, *more],
        "split",
        [helper.make_tensor_value_info("x", float32, [width])],
        [helper.make_tensor_value_info(name, float32, None) for name in names],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def test_a_split_into_equal_parts_forgets_how_many_there_are() -> None:
    model = graph(6, 2)
    model.graph.value_info.extend(model.graph.output)
    to_older_opset(model, 17, "graph")
    assert model.opset_import[0].version == 17 and not [a for a in model.graph.node[0].attribute if a.name != "axis"]
    onnx.checker.check_model(model, full_check=True)


def test_a_split_whose_last_part_is_smaller_was_none() -> None:
    model = graph(5, 2)
    model.graph.value_info.extend(model.graph.output)
    with pytest.raises(ScoreEdgeError, match="graph is of opset 18; in opset 17 Split was another operator"):
        to_older_opset(model, 17, "graph")


@pytest.mark.parametrize(("reduction", "goes"), [("none", True), ("add", True), ("max", False)])
def test_a_scatter_goes_unless_its_reduction_is_newer(reduction: str, goes: bool) -> None:
    scatter = onnx.helper.make_node("ScatterND", ["x", "at", "new"], ["y"], reduction=reduction)
    model = graph(6, 2, scatter)
    model.graph.value_info.extend(model.graph.output)
    if goes:
        to_older_opset(model, 17, "graph")
    else:
        with pytest.raises(ScoreEdgeError, match="ScatterND was another operator"):
            to_older_opset(model, 17, "graph")
