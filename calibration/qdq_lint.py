"""The rules that TensorRT's parser and builder put on Q/DQ graphs, checked with onnx alone.

What it cannot see: whether a builder has a kernel for a layer, and accuracy. `score-edge build` asks the builder.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
REFUSED = frozenset(
    {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "QLinearAdd", "QGemm"}
)
WEIGHTED = ("MatMul", "Gemm", "Conv")
MAX_OPSET = 20


def lint(model: Any) -> list[str]:
    """What TensorRT would refuse or compute badly in a graph, a sentence each; an FP32 graph has none.

    Source: NVIDIA's "Working with Quantized Types", and what its parser and builder (TensorRT for RTX 1.7) were seen
    to refuse.

    Args:
        model: onnx.ModelProto with its weights.

    Example:
        >>> lint(onnx.load("encoder.onnx"))  # doctest: +SKIP
        ['patches_QuantizeLinear: the zero point is 128, must be 0: quantise symmetrically']
    """
    return list(_Graph(model).findings())


class _Graph:
    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self.nodes = list(model.graph.node)
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.read = numpy_helper.to_array
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def findings(self) -> Iterator[str]:
        opset = next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset > MAX_OPSET:
            yield f"opset {opset}: TensorRT 10 reads up to {MAX_OPSET}, 8.6 up to 17"
        for node in self.nodes:
            if node.op_type in REFUSED or (node.domain not in ("", "ai.onnx") and "uantize" in node.op_type):
                yield f"{node.name}: TensorRT knows no {node.op_type}, only QuantizeLinear and DequantizeLinear"
            elif node.op_type in (QUANTIZE, DEQUANTIZE):
                yield from self._parameters(node)
                yield from self._neighbours(node)

    def _parameters(self, node: Any) -> Iterator[str]:
        if node.input[1] not in self.weights:
            yield f"{node.name}: the scale is computed at run time, must be a constant"
            return
        scale = self.read(self.weights[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            yield f"{node.name}: the scale must be finite and above 0"
        zero = self._array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        if zero is None:
            yield f"{node.name}: the zero point is computed at run time, must be the constant 0"
        elif zero.any():
            yield f"{node.name}: the zero point is {zero[zero != 0].flat[0]}, must be 0: quantise symmetrically"
        elif zero.dtype != np.int8:
            kind = {"uint8": "unsigned", "int32": "INT32, as ONNX Runtime quantises biases"}.get(zero.dtype.name)
            yield f"{node.name}: the type is {kind or zero.dtype.name}, must be INT8"
        if scale.size > 1 and not self._is_weight(node):
            yield f"{node.name}: an activation has {scale.size} scales, must have one"

    def _neighbours(self, node: Any) -> Iterator[str]:
        readers = self.readers.get(node.output[0], [])
        if node.op_type == QUANTIZE:
            if any(reader.op_type != DEQUANTIZE for reader in readers):
                yield f"{node.name}: every QuantizeLinear must be followed by a DequantizeLinear"
            return
        for reader in readers:
            if reader.op_type not in WEIGHTED:
                yield f"{node.name}: feeds {reader.op_type} {reader.name}, only {', '.join(WEIGHTED)} gain from INT8"
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
                f"{node.name}: {scale.size} scales along axis {axis} of {weight.shape}, {reader.op_type} needs "
                f"{weight.shape[wanted]} along axis {wanted}"
            )

    def _is_weight(self, node: Any) -> bool:
        return self._weight(node) is not None

    def _weight(self, node: Any) -> Any:
        """The constant a DequantizeLinear reads, directly or through a QuantizeLinear; None for an activation."""
        source = node.input[0]
        producer = self.producers.get(source)
        if producer is not None and producer.op_type == QUANTIZE:
            source = producer.input[0]
        return self._array(source)

    def _array(self, name: str) -> Any:
        return self.read(self.weights[name]) if name in self.weights else None
