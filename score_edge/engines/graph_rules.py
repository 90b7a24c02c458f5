"""What TensorRT's parser or builder refuses in a graph, found without TensorRT.

The rules were seen with TensorRT for RTX 1.7 and its refusals (docs/hardware.md). Passing them is no proof: `score-edge
build --check` asks NVIDIA's own parser and builder.
"""

from collections.abc import Iterator
from typing import Any

from score_edge.runtime.engine_files import Precision

_UNKNOWN = {
    "Attention": "export with opset 22 or older, where attention is several operators",
    "Bernoulli": "no TensorRT draws random numbers this way",
    "Multinomial": "no TensorRT draws random numbers this way",
    "Unique": "its result has no fixed size",
    **dict.fromkeys(
        ("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "QGemm"),
        "TensorRT reads quantisation as Q/DQ pairs only: `score-edge calibrate` makes those",
    ),
}
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"


def broken_rules(model: Any) -> list[str]:
    """What is wrong with an onnx.ModelProto, a line each; empty where nothing is known to be.

    Example:
        >>> broken_rules(onnx.load("encoder.onnx"))  # doctest: +SKIP
        ['DequantizeLinear b_dq: its input is int32; biases must stay float (QuantizeBias=False)']
    """
    nodes = list(model.graph.node)
    found = [f"{node.op_type} {node.name}: {_UNKNOWN[node.op_type]}" for node in nodes if node.op_type in _UNKNOWN]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type in (_QUANTISE, _DEQUANTISE):
            found += [f"{node.op_type} {node.name}: {problem}" for problem in _quantisation(node, constants)]
    return found


def precision_of(model: Any) -> Precision:
    """What a graph was made as: ``"int8"`` where it has Q/DQ pairs, ``"fp16"`` where it has half weights."""
    import onnx

    if any(node.op_type == _QUANTISE or node.op_type == _DEQUANTISE for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"


def _quantisation(node: Any, constants: dict[str, Any]) -> Iterator[str]:
    import onnx
    from onnx import numpy_helper

    quantised = constants.get(node.input[0]) if node.op_type == _DEQUANTISE else None
    if quantised is not None and quantised.data_type == onnx.TensorProto.INT32:
        yield "its input is int32; biases must stay float (QuantizeBias=False)"
        return
    zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None and node.op_type == _QUANTISE:
        yield "it has no zero point, so its type is uint8; TensorRT takes int8"
    if zero is None:
        return
    if zero.data_type != onnx.TensorProto.INT8:
        yield f"its type is {onnx.TensorProto.DataType.Name(zero.data_type).lower()}; TensorRT takes int8"
    elif numpy_helper.to_array(zero).any():
        yield "its zero point is not 0; TensorRT takes symmetric quantisation only"
