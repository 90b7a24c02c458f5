"""What can be said about a graph without TensorRT: what it was made as, and which operators no TensorRT reads."""

from typing import Any

from score_edge.runtime.engine_files import Precision

_Q_DQ_ONLY = "quantisation is read as Q/DQ pairs only, which `score-edge calibrate --form int8` makes"
_UNKNOWN = {
    "Attention": "export with opset 22 or older, where attention is several operators",
    "Bernoulli": "no TensorRT draws random numbers this way",
    "Multinomial": "no TensorRT draws random numbers this way",
    "Unique": "the size of its result depends on the data",
    "ConvInteger": _Q_DQ_ONLY,
    "DynamicQuantizeLinear": _Q_DQ_ONLY,
    "MatMulInteger": _Q_DQ_ONLY,
    "QGemm": _Q_DQ_ONLY,
    "QLinearConv": _Q_DQ_ONLY,
    "QLinearMatMul": _Q_DQ_ONLY,
}


def refused_operators(model: Any) -> dict[str, str]:
    """Operators in an onnx.ModelProto that TensorRT does not read, and what to do about each.

    Example:
        >>> refused_operators(onnx.load("encoder.onnx"))  # doctest: +SKIP
        {'Attention': 'export with opset 22 or older, where attention is several operators'}
    """
    used = {node.op_type for node in model.graph.node}
    return {name: remedy for name, remedy in _UNKNOWN.items() if name in used}


def precision_of(model: Any) -> Precision:
    """What a graph was made as: ``"int8"`` where it is quantised, ``"fp16"`` where it has half weights."""
    import onnx

    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"
