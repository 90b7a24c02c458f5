"""The range of every activation over calibration steps: extremes, a percentile, or the least entropy lost."""

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

Method = Literal["minmax", "percentile", "entropy"]
PERCENTILE = 99.99
BINS: dict[Method, int] = {"percentile": 16384, "entropy": 1023}
LEVELS = 255  # what symmetric INT8 can tell apart


@dataclass(frozen=True, slots=True)
class Range:
    """What an activation was seen to hold.

    Attributes:
        low, high: what quantisation should cover.
        values: elements of the tensor in one step.
    """

    low: float
    high: float
    values: int


def collect_ranges(
    graph: OnnxGraph,
    names: Sequence[str],
    steps: Iterable[Mapping[str, Float32]],
    method: Method = "minmax",
    *,
    symmetric: bool = True,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, Range]:
    """Run every step and keep the range of the tensors named; one step is in memory at a time.

    ONNX Runtime's `quantize_static(calibrate_method=Entropy)` starts from as many bins as it ends with, so that nothing
    is ever cut: its result is that of MinMax to the bit. Its histogram collector is asked directly here, with BINS.

    Args:
        graph: whose outputs hold `names`, apart from those that are inputs of it.
        names: tensors.
        steps: encoder inputs by name; iterated twice unless the method is minmax.
        method: how outliers are met.
        symmetric: whether the quantisation will be; percentile then cuts by magnitude.
        on_step: called after every step run, for a progress bar.

    Raises:
        ScoreEdgeError: a tensor is not finite on some step.
    """
    extremes: dict[str, Range] = {}
    for index, inputs in enumerate(steps):
        for name, values in _tensors(graph, inputs, names).items():
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise ScoreEdgeError(
                    f"the encoder gives values that are not finite: {name} on calibration step {index}",
                    "the graph is broken, INT8 cannot fix it: export the bundle again, in fp32",
                )
            known = extremes.get(name, Range(low, high, values.size))
            extremes[name] = Range(min(known.low, low), max(known.high, high), values.size)
        on_step()
    return extremes if method == "minmax" else _histograms(graph, extremes, steps, method, symmetric, on_step)


def _histograms(
    graph: OnnxGraph,
    extremes: dict[str, Range],
    steps: Iterable[Mapping[str, Float32]],
    method: Method,
    symmetric: bool,
    on_step: Callable[[], None],
) -> dict[str, Range]:
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(method, symmetric, BINS[method], LEVELS, PERCENTILE, "same")
    # Bins over the whole range first: they would otherwise be added, without bound, whenever a step exceeds the first.
    for name, found in extremes.items():
        collector.histogram_dict[name] = _empty(found, BINS[method], magnitudes=symmetric and method == "percentile")
    with contextlib.redirect_stdout(io.StringIO()):
        for inputs in steps:
            collector.collect(_tensors(graph, inputs, list(extremes)))
            on_step()
        cut = collector.compute_collection_result()
    return {name: Range(float(low), float(high), extremes[name].values) for name, (low, high, *_) in cut.items()}


def _empty(seen: Range, bins: int, magnitudes: bool) -> tuple[Any, ...]:
    """A histogram as the collector keeps it: counts, edges, extremes and, where values have a sign, its half width."""
    low, high = np.float32(seen.low), np.float32(seen.high)
    top = max(abs(low), abs(high), np.float32(1e-12))
    edges = np.linspace(0 if magnitudes else -top, top, bins + 1, dtype=np.float32)
    return (np.zeros(bins, np.int64), edges, low, high, *(() if magnitudes else (top,)))


def _tensors(graph: OnnxGraph, inputs: Mapping[str, Float32], names: Sequence[str]) -> dict[str, Float32]:
    found = {**inputs, **graph.run(**inputs)}
    return {name: found[name] for name in names}
