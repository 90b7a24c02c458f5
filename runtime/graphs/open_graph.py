"""Which of TensorRT, CUDA and the CPU runs a bundle's graph."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from score_edge.bundle.folder import Bundle, GraphName, check_shapes
from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.base import Graph
from score_edge.runtime.graphs.cpu_int8 import OVERFLOWS, REMEDY, overflows
from score_edge.runtime.graphs.cuda_driver import cuda_devices, require_gpu
from score_edge.runtime.graphs.engine_files import build_command, find_engine, read_records
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.selection.score import KeepProbability, QueryPolicy

Provider = Literal["auto", "tensorrt", "cuda", "cpu"]

_CUDA = "CUDAExecutionProvider"
_FOR_ONE_THREAD = 2e8
"""Multiplications up to which a second thread wins little alone, and costs more than that beside a busy decoder."""
_log = logging.getLogger(__name__)


def open_graph(
    bundle: Bundle, name: GraphName, provider: Provider = "auto", *, threads: int | None = None
) -> tuple[Graph, dict[str, str]]:
    """Open one of a bundle's graphs.

    Args:
        bundle: which has one.
        name: which of its graphs.
        provider: ``"auto"`` takes the first of TensorRT, CUDA and CPU that works here.
        threads: of the CPU.

    Returns:
        The graph, and by provider why it was skipped.

    Raises:
        ScoreEdgeError: the provider that was asked for does not work here; the graph is damaged or does not fit.

    Example:
        >>> graph, skipped = open_graph(Bundle.open("reference"), "encoder")  # doctest: +SKIP
        >>> graph.provider, skipped  # doctest: +SKIP
        ('CPUExecutionProvider', {'tensorrt': 'no NVIDIA driver', 'cuda': 'no NVIDIA driver'})
    """
    skipped: dict[str, str] = {}
    candidates: Iterable[str] = _OPENERS if provider == "auto" else (provider,)
    for candidate in candidates:
        try:
            graph = _OPENERS[candidate](bundle, name, threads)
        except ScoreEdgeError as error:
            if provider != "auto" or candidate == "cpu":
                raise
            skipped[candidate] = error.message
            # Not to have engines is no news; to have some and not use them is.
            if candidate == "tensorrt" and not isinstance(cuda_devices(), str) and read_records(bundle):
                _log.warning("the %s runs without TensorRT: %s (%s)", name, error.message, error.hint)
            continue
        check_shapes(bundle.manifest, name, graph.inputs, graph.outputs)
        return graph, skipped
    raise AssertionError("the CPU either opens a graph or says why not")


def open_policy(bundle: Bundle, provider: Provider = "auto", *, threads: int | None = None) -> KeepProbability | None:
    """A bundle's policy as the selector ``score`` calls it; None where the bundle has none. As `open_graph`."""
    if bundle.policy_path is None:
        return None
    graph, _ = open_graph(bundle, "policy", provider, threads=threads)

    def keep_probability(tokens: Float32, previous: Float32) -> Float32:
        keep: Float32 = graph.run(tokens=tokens, previous=previous)["keep"]
        return keep

    return keep_probability


def open_query(bundle: Bundle, *, threads: int | None = None) -> QueryPolicy:
    """A bundle's policy that knows the question; on the CPU, it is small.

    Args:
        bundle: which has one.
        threads: of the CPU.

    Raises:
        ScoreEdgeError: the bundle has none, or one that does not fit.
    """
    if bundle.query_path is None:
        raise ScoreEdgeError(
            f"{bundle.folder} has no policy that knows the question", "--selector score needs no question"
        )
    graph = OnnxGraph(bundle.query_path, threads=threads)
    check_shapes(bundle.manifest, "query", graph.inputs, graph.outputs)

    def keep_probability(tokens: Float32, previous: Float32, background: Float32, question: Float32) -> Float32:
        given = {"tokens": tokens, "previous": previous, "background": background, "question": question}
        keep: Float32 = graph.run(**given)["keep"]
        return keep

    return keep_probability


def _tensorrt(bundle: Bundle, name: GraphName, threads: int | None) -> Graph:
    from score_edge.runtime.graphs.tensorrt_graph import TensorRTGraph
    from score_edge.runtime.graphs.tensorrt_library import load_tensorrt

    gpu = require_gpu("TensorRT")
    found = find_engine(bundle, name, str(gpu), load_tensorrt().__version__)
    if isinstance(found, str):
        raise ScoreEdgeError(found, build_command(bundle))
    path, record = found
    (engine,) = (engine for engine in record.engines if engine.graph == name)
    return TensorRTGraph(path, precision=engine.precision)


def _cuda(bundle: Bundle, name: GraphName, threads: int | None) -> Graph:
    require_gpu(_CUDA)
    graph = OnnxGraph(_onnx(bundle, name), providers=(_CUDA,), threads=threads)
    if graph.provider != _CUDA:  # ONNX Runtime lists providers that do not open, and falls back without a word
        raise ScoreEdgeError(f"ONNX Runtime lists {_CUDA}, but runs on {graph.provider}", "score-edge doctor")
    return graph


def _cpu(bundle: Bundle, name: GraphName, threads: int | None) -> Graph:
    if name != "policy" and overflows(bundle.manifest.vision.int8):
        _log.warning("%s (%s)", OVERFLOWS, REMEDY)
    path = _onnx(bundle, name)
    return OnnxGraph(path, threads=threads or (1 if _work(bundle, name, path) < _FOR_ONE_THREAD else None))


def _work(bundle: Bundle, name: GraphName, path: Path) -> float:
    """Multiplications of a step, roughly: every weight once for each row."""
    vision = bundle.manifest.vision
    if name == "policy":  # never large enough for weights beside it: those there are the encoder's
        return path.stat().st_size / 4 * vision.token_grid.tokens
    return (path.stat().st_size + sum(file.bytes for file in bundle.manifest.extra)) / 4 * vision.patches


def _onnx(bundle: Bundle, name: GraphName) -> Path:
    path = bundle.graphs.get(name)
    if path is None:
        raise ScoreEdgeError(f"{bundle.folder} has no {name}", "export it with one, or take another selector")
    return path


_OPENERS: dict[str, Callable[[Bundle, GraphName, int | None], Graph]] = {
    "tensorrt": _tensorrt,
    "cuda": _cuda,
    "cpu": _cpu,
}
