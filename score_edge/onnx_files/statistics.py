"""What an ONNX graph costs: its operators, parameters and multiply-accumulates, without running it."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError, require


@dataclass(frozen=True, slots=True)
class GraphStats:
    """A graph in numbers.

    Attributes:
        opset: of the default domain.
        parameters: values in its weights, whatever their type.
        macs: multiply-accumulates of MatMul, Gemm and Conv in one run; a free dimension counts as one.
        ops: operator to how often it occurs, the most frequent first.
    """

    opset: int
    parameters: int
    macs: int
    ops: dict[str, int]


def graph_stats(path: Path) -> GraphStats:
    """Count what is in a graph; weights are not read.

    Raises:
        ScoreEdgeError: onnx is not installed, or the file is no graph.
    """
    onnx = require("onnx", "export")
    try:
        model = onnx.load(path, load_external_data=False)
        # On the file: a graph of more than 2 GB fits no single message.
        typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # onnx's and protobuf's errors share no base class
        raise ScoreEdgeError(f"{path} is no ONNX graph: {error}", "export the bundle again") from error
    graph = typed.graph
    shapes: dict[str, list[int]] = {weight.name: list(weight.dims) for weight in graph.initializer}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    return GraphStats(
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        parameters=parameters,
        macs=sum(_macs(node, shapes) for node in graph.node),
        ops=dict(Counter(node.op_type for node in graph.node).most_common()),
    )


def _macs(node: Any, shapes: dict[str, list[int]]) -> int:
    """Multiply-accumulates of one node: for every value that comes out, what is summed up for it."""
    out = math.prod(shapes.get(node.output[0], [])) if node.output[0] in shapes else 0
    first = shapes.get(node.input[0], []) if node.input else []
    if node.op_type == "MatMul":
        return out * (first[-1] if first else 0)
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return out * (first[0 if transposed else -1] if first else 0)
    if node.op_type == "Conv":
        return out * math.prod(shapes.get(node.input[1], [0])[1:])
    return 0
