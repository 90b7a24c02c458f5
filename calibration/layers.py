"""The layers of a graph that can be quantised, under the names they had in the checkpoint."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from score_edge.errors import ScoreEdgeError, did_you_mean

OPERATORS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, slots=True)
class Layer:
    """A MatMul, Gemm or Conv with a constant weight.

    Attributes:
        name: for people: that of the weight in the checkpoint where the graph still knows it, else the node's.
        node: name of the node.
        activation: the tensor it reads.
        weight: the initializer it multiplies with.
        products: multiplications per value that it reads, those with padding included.
        operator: one of OPERATORS.
    """

    name: str
    node: str
    activation: str
    weight: str
    products: float
    operator: str


def find_layers(model: Any) -> list[Layer]:
    """Every layer that can be quantised, in the graph's order. Attention's products have no constant and stay.

    Args:
        model: onnx.ModelProto whose constants are folded.
    """
    weights = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    readers = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    layers: list[Layer] = []
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.input[0] in weights or node.input[1] not in weights:
            continue
        shape = weights[node.input[1]]
        if len(shape) < 2:
            continue
        name = _known_as(node, weights, readers)
        if any(layer.name == name for layer in layers):
            name = node.name
        layers.append(Layer(name, node.name, node.input[0], node.input[1], _products(node, shape), node.op_type))
    return layers


def pick(layers: Sequence[Layer], patterns: Sequence[str]) -> set[str]:
    """Names of the layers that a pattern matches: a layer's or node's name, with * and ?, or its end after a dot.

    Raises:
        ScoreEdgeError: a pattern that matches no layer.

    Example:
        >>> pick(layers, ["*.fc2", "visual.merger.mlp.0"])  # doctest: +SKIP
        {'visual.blocks.0.mlp.fc2', 'visual.blocks.1.mlp.fc2', 'visual.merger.mlp.0'}
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = {
            layer.name
            for layer in layers
            if any(fnmatch(n, p) for n in (layer.name, layer.node) for p in _ends(pattern))
        }
        if not matches:
            names = [layer.name for layer in layers]
            raise ScoreEdgeError(f"no layer is called {pattern!r}", did_you_mean(pattern, names))
        found |= matches
    return found


def _products(node: Any, shape: tuple[int, ...]) -> float:
    """See `Layer`; a filter of a depthwise convolution reads one channel only, one with strides not every place."""
    if node.op_type != "Conv":
        return shape[0] if any(a.name == "transB" and a.i for a in node.attribute) else shape[-1]
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    strides = next((a.ints for a in node.attribute if a.name == "strides"), ())
    return shape[0] * math.prod(shape[2:]) / (groups * math.prod(strides))


def _ends(pattern: str) -> tuple[str, str]:
    return pattern, f"*.{pattern}"


def _known_as(node: Any, weights: dict[str, tuple[int, ...]], readers: dict[str, Any]) -> str:
    if "." in node.input[1]:
        return str(node.input[1]).removesuffix(".weight")
    # Constant folding renames a transposed weight; the bias behind the product still has its name.
    reader = readers.get(node.output[0])
    biases = [*node.input[2:], *(reader.input if reader is not None else ())]
    named = [name for name in biases if name in weights and name.endswith(".bias")]
    return str(named[0]).removesuffix(".bias") if named else str(node.name)
