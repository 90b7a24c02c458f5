"""What can be said about a graph with onnx alone: what it was made as, and what in it TensorRT refuses.

What it cannot see: whether a builder has a kernel for a layer, and accuracy. `score-edge build` asks the builder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from score_edge.onnx_files.precision import Precision

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_WEIGHTED = ("MatMul", "Gemm", "Conv")
_CALIBRATE = "calibrate the FP32 bundle with `score-edge calibrate --form int8`, and build that"
_REFUSED = {
    "Attention": "export with opset 22 or older, where attention is several operators",
    "Bernoulli": "no TensorRT draws random numbers this way",
    "Multinomial": "no TensorRT draws random numbers this way",
    "Unique": "the size of its result depends on the data",
    **dict.fromkeys(("MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"), _CALIBRATE),
    **dict.fromkeys(("QLinearMatMul", "QLinearConv", "QLinearAdd", "QGemm"), _CALIBRATE),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in a graph that TensorRT refuses or computes badly, and what to do about it."""

    problem: str
    remedy: str


def lint(model: Any) -> list[Finding]:
    """The rules of TensorRT's parser and builder, those on Q/DQ above all.

    Source: NVIDIA's "Working with Quantized Types", and what its parser and builder (TensorRT for RTX 1.7) were seen
    to refuse.

    Args:
        model: onnx.ModelProto with its weights.

    Example:
        >>> lint(onnx.load("encoder.onnx"))[0].problem  # doctest: +SKIP
        'patches_QuantizeLinear: the zero point is 128, must be 0'
    """
    return list(_Graph(model).findings())


def precision_of(model: Any) -> Precision:
    """What a graph was made as: ``"int8"`` where it is quantised, ``"fp16"`` where it has half weights."""
    import onnx

    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"


class _Graph:
    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.nodes = list(model.graph.node)
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.read = numpy_helper.to_array
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def findings(self) -> Iterator[Finding]:
        used = {node.op_type: node for node in self.nodes}
        for kind, node in used.items():
            foreign = node.domain not in ("", "ai.onnx") and "uantize" in kind
            if kind in _REFUSED or foreign:
                yield Finding(f"it has the operator {kind}, which TensorRT refuses", _REFUSED.get(kind, _CALIBRATE))
        for node in self.nodes:
            if node.op_type in (_QUANTIZE, _DEQUANTIZE):
                for problem in (*self._parameters(node), *self._neighbours(node)):
                    yield Finding(f"{node.name}: {problem}", _CALIBRATE)

    def _parameters(self, node: Any) -> Iterator[str]:
        if node.input[1] not in self.weights:
            yield "the scale is computed at run time, must be a constant"
            return
        scale = self.read(self.weights[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield "the scale must be finite and above 0"
        zero = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        if zero is None:
            yield "the zero point is computed at run time, must be the constant 0"
        elif zero.any():
            yield f"the zero point is {zero[zero != 0].flat[0]}, must be 0"
        elif zero.dtype != np.int8:
            kind = {"uint8": "unsigned", "int32": "INT32, as ONNX Runtime quantises biases"}.get(zero.dtype.name)
            yield f"the type is {kind or zero.dtype.name}, must be INT8"
        if scale.size > 1 and not self._is_weight(node):
            yield f"an activation has {scale.size} scales, must have one"

    def _neighbours(self, node: Any) -> Iterator[str]:
        readers = self.readers.get(node.output[0], [])
        if node.op_type == _QUANTIZE:
            if any(reader.op_type != _DEQUANTIZE for reader in readers):
                yield "every QuantizeLinear must be followed by a DequantizeLinear"
            return
        for reader in readers:
            if reader.op_type not in _WEIGHTED:
                yield f"feeds {reader.op_type} {reader.name}, only {', '.join(_WEIGHTED)} gain from INT8"
            elif self._is_weight(node):
                yield from self._axis(node, reader)

    def _axis(self, node: Any, reader: Any) -> Iterator[str]:
        """A weight's scales must lie along the channels that the layer makes."""
        scale = self._array(node.input[1])
        weight = self._weight(node)
        if scale is None or weight is None or scale.size == 1:
            return
        attributes = {attribute.name: attribute.i for attribute in (*node.attribute, *reader.attribute)}
        axis = attributes.get("axis", 1) % weight.ndim
        first = reader.op_type == "Conv" or (reader.op_type == "Gemm" and attributes.get("transB", 0))
        wanted = 0 if first else weight.ndim - 1
        if axis != wanted or scale.size != weight.shape[wanted]:
            yield (
                f"{scale.size} scales along axis {axis} of {weight.shape}, {reader.op_type} needs "
                f"{weight.shape[wanted]} along axis {wanted}"
            )

    def _is_weight(self, node: Any) -> bool:
        return self._weight(node) is not None

    def _weight(self, node: Any) -> Any:
        """The constant a DequantizeLinear reads, directly or through a QuantizeLinear; None for an activation."""
        source = node.input[0]
        producer = self.producers.get(source)
        if producer is not None and producer.op_type == _QUANTIZE:
            source = producer.input[0]
        return self._array(source)

    def _array(self, name: str) -> Any:
        return self.read(self.weights[name]) if name in self.weights else None
