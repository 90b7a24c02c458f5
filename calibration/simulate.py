"""Fake-quant simulation: INT8 as TensorRT computes it, a switch per layer. CPUs without VNNI saturate instead."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.calibration.layers import Layer
from score_edge.core import Float32
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

SWITCHES = "quantised"


def simulate(quantised: Any, plain: Any, layers: Sequence[Layer], *, switched: bool) -> Any:
    """The Q/DQ graph computed in FP32 on values rounded to INT8.

    A Where stands behind every Q/DQ: ONNX Runtime cannot fuse it into an integer kernel then. Products of INT8 values
    summed in INT32, which TensorRT does, equal this up to FP32 rounding; x86 kernels without VNNI add pairs of products
    in INT16, which overflow.

    Args:
        quantised: from `quantize`, static.
        plain: the graph it was made of.
        layers: all that `quantised` quantises.
        switched: adds an input `SWITCHES`, bool (layers,), in the order of `layers`: which of them are quantised.
            Otherwise all are.
    """
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    model = ModelProto()
    model.CopyFrom(quantised)
    graph = model.graph
    producers = {output: node for node in graph.node for output in node.output}
    weights = {weight.name: weight for weight in plain.graph.initializer}
    flags = np.ones(len(layers), np.bool_)
    if switched:
        graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, flags.shape))
    else:
        graph.initializer.append(numpy_helper.from_array(flags, SWITCHES))
    graph.initializer.extend(numpy_helper.from_array(np.int64(i), f"{SWITCHES}_{i}") for i in range(len(layers)))
    present = {weight.name for weight in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    added = []
    for i, layer in enumerate(layers):
        node = nodes[layer.node]
        flag = f"{SWITCHES}_{i}_on"
        added.append(helper.make_node("Gather", [SWITCHES, f"{SWITCHES}_{i}"], [flag]))
        originals = producers[producers[node.input[0]].input[0]].input[0], layer.weight
        if layer.weight not in present:
            graph.initializer.append(weights[layer.weight])
            present.add(layer.weight)
        for place, original in enumerate(originals):
            chosen = f"{SWITCHES}_{i}_{place}"
            added.append(helper.make_node("Where", [flag, node.input[place], original], [chosen]))
            node.input[place] = chosen
    ordered = _topological([*graph.node, *added])
    del graph.node[:]
    graph.node.extend(ordered)
    return model


def _topological(nodes: Sequence[Any]) -> list[Any]:
    """Nodes behind those they read from; what no node makes is an input or an initializer."""
    made = {output: index for index, node in enumerate(nodes) for output in node.output}
    done: dict[int, Any] = {}
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            index = stack[-1]
            waiting = [made[name] for name in nodes[index].input if name in made and made[name] not in done]
            if waiting and index not in done:
                stack.extend(waiting)
            else:
                done.setdefault(stack.pop(), nodes[index])
    return list(done.values())


class Switchboard:
    """A loaded simulation whose layers are quantised one by one.

    Example:
        >>> board = Switchboard(quantised, plain, layers, Path("scratch.onnx"))  # doctest: +SKIP
        >>> board.run(inputs, {"visual.blocks.0.mlp.fc2"}).shape  # doctest: +SKIP
        (36, 192)
    """

    def __init__(self, quantised: Any, plain: Any, layers: Sequence[Layer], scratch: Path) -> None:
        save_onnx(simulate(quantised, plain, layers, switched=True), scratch)
        self.layers = [layer.name for layer in layers]
        self._graph = OnnxGraph(scratch)

    def run(self, inputs: Mapping[str, Float32], on: Collection[str]) -> Float32:
        """The encoder's tokens, (N, D) float32, with these layers quantised and the others not."""
        flags = np.array([name in on for name in self.layers])
        tokens: Float32 = self._graph.run(**inputs, **{SWITCHES: flags})["tokens"]
        return tokens
