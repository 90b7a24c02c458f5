"""Every variant of a form made, written, and measured against FP32 on held-out steps."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.calibration.fidelity import Fidelity, difference, measure_fidelity
from score_edge.calibration.layers import Layer
from score_edge.calibration.quantize import VARIANTS, Form, Variant, quantisable, quantize
from score_edge.calibration.ranges import Range
from score_edge.calibration.simulate import simulate
from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.save import save_onnx
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.selection.registry import Selector

TURNS = 9
Inputs = Mapping[str, Float32]


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant, as measured here.

    Attributes:
        path: the graph a bundle gets.
        judged: the graph that was measured: for TensorRT the same in fake-quant simulation.
        accuracy: beside FP32, on held-out steps.
        milliseconds: of one step of `path` in ONNX Runtime on this machine, median of runs interleaved with FP32.
        fp32_milliseconds: of FP32 in the same runs.
    """

    variant: Variant
    path: Path
    judged: Path
    accuracy: Fidelity
    milliseconds: float
    fp32_milliseconds: float


@dataclass(frozen=True)
class Bench:
    """What a trial needs: the prepared FP32 graph, its ranges and the held-out steps with FP32's tokens.

    Attributes:
        plain: from `quantize.prepare`.
        held: encoder inputs, run by run.
        expected: FP32's tokens of these, (T, N, D) float32 per run.
        selector: makes the bundle's own selector.
        scratch: where graphs are written.
    """

    plain: Any
    layers: Sequence[Layer]
    ranges: Mapping[str, Range]
    fp32: OnnxGraph
    held: Sequence[Sequence[Inputs]]
    expected: Sequence[Float32]
    selector: Callable[[], Selector]
    scratch: Path

    def accuracy(self, encode: Callable[[Inputs], Float32]) -> Fidelity:
        """Of anything that makes tokens of encoder inputs."""
        return measure_fidelity(self.expected, encode_runs(encode, self.held), self.selector)

    def loss(self, encode: Callable[[Inputs], Float32]) -> float:
        """`Fidelity.loss` alone, without the selector's work."""
        runs = zip(self.expected, encode_runs(encode, self.held), strict=True)
        return 1 - min(
            difference(one.reshape(-1, one.shape[-1]), other.reshape(-1, one.shape[-1])).worst_cosine
            for one, other in runs
        )

    def graph(self, variant: Variant, excluded: Collection[str]) -> Any:
        """The quantised graph with these layers left in FP32."""
        return quantize(self.plain, self._chosen(excluded), self.ranges, variant, self.scratch)

    def run(self, form: Form, excluded: Collection[str]) -> list[Trial]:
        """Make and measure every variant of a form that quantises something, or the first where none does."""
        chosen = self._chosen(excluded)
        variants = [variant for variant in VARIANTS[form] if quantisable(chosen, variant)] or VARIANTS[form][:1]
        return [self._trial(variant, form == "int8", excluded) for variant in variants]

    def _chosen(self, excluded: Collection[str]) -> list[Layer]:
        return [layer for layer in self.layers if layer.name not in excluded]

    def _trial(self, variant: Variant, simulated: bool, excluded: Collection[str]) -> Trial:
        quantised = self.graph(variant, excluded)
        path = judged = self.scratch / f"{variant}.onnx"
        save_onnx(quantised, path)
        if simulated:
            judged = self.scratch / f"{variant}-simulated.onnx"
            save_onnx(simulate(quantised, self.plain, self._chosen(excluded), switched=False), judged)
        graph = OnnxGraph(path)
        accuracy = self.accuracy(tokens_of(OnnxGraph(judged) if simulated else graph))
        fp32, int8 = interleaved([self.fp32, graph], self.held[0][0], TURNS)
        return Trial(variant, path, judged, accuracy, 1e3 * int8, 1e3 * fp32)


def best_trial(trials: Sequence[Trial], max_loss: float) -> Trial | None:
    """The fastest within the bound; None where none is."""
    fitting = [trial for trial in trials if trial.accuracy.loss <= max_loss]
    return min(fitting, key=lambda trial: trial.milliseconds, default=None)


def interleaved(graphs: Sequence[OnnxGraph], inputs: Inputs, runs: int) -> list[float]:
    """Median seconds of each graph, interleaved so that other work on the machine meets all alike."""
    seconds: list[list[float]] = [[] for _ in graphs]
    for run in range(runs + 1):
        for graph, taken in zip(graphs, seconds, strict=True):
            began = time.perf_counter()
            graph.run(**inputs)
            if run:  # the first is a warm-up
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in seconds]


def tokens_of(graph: OnnxGraph) -> Callable[[Inputs], Float32]:
    """Encoder inputs to (N, D) float32 tokens."""

    def encode(inputs: Inputs) -> Float32:
        tokens: Float32 = graph.run(**inputs)["tokens"]
        return tokens

    return encode


def encode_runs(encode: Callable[[Inputs], Float32], held: Sequence[Sequence[Inputs]]) -> list[Float32]:
    """Tokens of held-out runs, (T, N, D) float32 each.

    Raises:
        ScoreEdgeError: a token is not finite.
    """
    runs = [np.stack([encode(inputs) for inputs in run]) for run in held]
    if not all(np.isfinite(run).all() for run in runs):
        raise ScoreEdgeError(
            "the encoder gives tokens that are not finite", "its graph is broken: export the bundle again, in fp32"
        )
    return runs
