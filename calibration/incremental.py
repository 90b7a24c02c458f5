"""The INT8 form of the incremental graph: the layers and ranges of the plain one, and what both savings do together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.calibration.fidelity import Fidelity, measure_fidelity
from score_edge.calibration.layers import Layer, find_layers
from score_edge.calibration.quantize import Variant, prepare, quantize
from score_edge.calibration.simulate import simulate
from score_edge.calibration.trials import Bench
from score_edge.core import Float32, Uint8
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.vision_encoder import VisionEncoder


@dataclass(frozen=True, slots=True)
class IncrementalForm:
    """The incremental graph in INT8, on the held-out steps.

    Attributes:
        layers: how many are quantised.
        threshold: grey levels, of the bundle.
        encoded: share of the cells that were encoded at this threshold.
        all_cells: every cell encoded, in INT8, beside FP32.
        fp32: some cells encoded in FP32, beside all of them in FP32.
        int8: some cells encoded in INT8, beside all of them in FP32: both savings together.
    """

    layers: int
    threshold: float
    encoded: float
    all_cells: Fidelity
    fp32: Fidelity
    int8: Fidelity


@dataclass(frozen=True, slots=True)
class QuantisedGraph:
    """As `Trial`: `path` is what a bundle gets, `judged` what is measured; `layers` of it are quantised."""

    path: Path
    judged: Path
    layers: int


def quantize_incremental(graph: Path, bench: Bench, variant: Variant, excluded: Collection[str]) -> QuantisedGraph:
    """Quantise the layers of the incremental graph that are quantised in the plain one, with its ranges.

    Its weights are the same, by which its layers are found, and its activations are those of some rows: so nothing new
    is calibrated.

    Args:
        graph: the FP32 incremental graph.
        bench: of the plain graph.
        variant: that was taken for it.
        excluded: layers left in FP32 there.
    """
    folder = bench.scratch / "incremental"
    folder.mkdir()
    plain = prepare(graph, folder)
    ours = {_weights_of(layer, plain): layer for layer in find_layers(plain)}
    theirs = [(_weights_of(layer, bench.plain), layer) for layer in bench.layers if layer.name not in excluded]
    pairs = [(ours[key], layer) for key, layer in theirs if key in ours]
    layers = [layer for layer, _ in pairs]
    ranges = {layer.activation: bench.ranges[other.activation] for layer, other in pairs}
    quantised = quantize(plain, layers, ranges, variant, folder)
    path = judged = folder / graph.name
    save_onnx(quantised, path)
    if variant == "s8s8" and layers:
        judged = folder / "simulated.onnx"
        save_onnx(simulate(quantised, plain, layers, switched=False), judged)
    return QuantisedGraph(path, judged, len(layers))


def _weights_of(layer: Layer, model: Any) -> bytes:
    """What tells a layer in either graph: not its number, and its name is lost where its weights were turned round."""
    from onnx import numpy_helper

    (weight,) = (weight for weight in model.graph.initializer if weight.name == layer.weight)
    (node,) = (node for node in model.graph.node if node.name == layer.node)
    array = numpy_helper.to_array(weight)
    if layer.operator == "Conv" or any(a.name == "transB" and a.i for a in node.attribute):
        array = array.reshape(len(array), -1).T
    return sha256(array.tobytes()).digest()


def measure_incremental(
    bundle: Bundle, quantised: QuantisedGraph, bench: Bench, held: Sequence[Sequence[Uint8]]
) -> IncrementalForm:
    """Encode the held-out runs by what changed, in FP32 and in INT8.

    Args:
        bundle: FP32, with an incremental graph.
        quantised: from `quantize_incremental`.
        bench: of the plain graph.
        held: pixels of the held-out runs, (F, H, W, 3) uint8 each.
    """
    before, after = OnnxGraph(bundle.graphs["incremental"]), OnnxGraph(quantised.judged)
    threshold = bundle.manifest.vision.change_threshold

    def fidelity(graph: OnnxGraph, least: float) -> tuple[Fidelity, float]:
        tokens, encoded = _encode(bundle, graph, least, held)
        return measure_fidelity(bench.expected, tokens, bench.selector), encoded

    int8, encoded = fidelity(after, threshold)
    return IncrementalForm(
        quantised.layers, threshold, encoded, fidelity(after, -1.0)[0], fidelity(before, threshold)[0], int8
    )


def _encode(
    bundle: Bundle, graph: OnnxGraph, threshold: float, held: Sequence[Sequence[Uint8]]
) -> tuple[list[Float32], float]:
    """(T, N, D) float32 of each run, and the share of the cells that were encoded."""
    vision = bundle.manifest.vision
    encoder = VisionEncoder(Preprocessing.of(vision).of_resized(), vision.dim, graph, threshold)
    runs, shares = [], []
    for run in held:
        state = encoder.start()
        steps = [encoder.encode(list(pixels), state, Stopwatch()) for pixels in run]
        runs.append(np.stack([tokens for tokens, _ in steps]))
        shares += [float(encoded.mean()) for _, encoded in steps]
    return runs, float(np.mean(shares))
