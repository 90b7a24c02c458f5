"""`score-edge build --check`: NVIDIA's own parser and builder judge a bundle's graphs, on a machine without a GPU.

TensorRT for RTX builds ahead of time on a CPU, with the interface of TensorRT 11. It is not the TensorRT of a Jetson:
what it takes is very likely to be taken there; how fast and how exact that is nobody learns here.
"""

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from score_edge.bundle.folder import Bundle, GraphName
from score_edge.engines.build import OnProgress, run_worker
from score_edge.engines.plan import GraphPlan, plan_graphs, prepare
from score_edge.engines.worker import Job
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.precision import Precision

MODULE = "tensorrt_rtx"
_OPSET = 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one graph.

    Attributes:
        bytes: of the engine; 0 where there is none.
        problem: empty where it was parsed and built.
    """

    graph: GraphName
    precision: Precision
    tensorrt: str
    bytes: int
    seconds: float
    problem: str = ""


def parse_and_build(
    bundle: Bundle,
    precision: Precision | None = None,
    *,
    on_progress: OnProgress = lambda phase, step, steps: None,
) -> list[Verdict]:
    """Parse and build every graph in every precision it can have, and throw the engines away.

    Args:
        bundle: opened.
        precision: of the encoder; None tries all that its file can have.
        on_progress: called with (phase, step, steps).

    Raises:
        ScoreEdgeError: TensorRT for RTX is not installed; a graph cannot have the precision.

    Example:
        >>> [row.problem for row in parse_and_build(Bundle.open("reference"))]  # doctest: +SKIP
        ['', '', '']
    """
    if importlib.util.find_spec(MODULE) is None:
        raise ScoreEdgeError(
            "--check needs TensorRT for RTX, which builds without a GPU", 'pip install "score-edge[rtx-check]"'
        )
    plans = plan_graphs(bundle, precision)
    if precision is None and plans[0].made_as == "fp32":
        full = [plan for plan in plan_graphs(bundle, "fp32") if plan.graph != "policy"]
        plans = [*full, *plans]
    return [check_graph(plan, on_progress) for plan in plans]


def check_graph(plan: GraphPlan, on_progress: OnProgress = lambda phase, step, steps: None) -> Verdict:
    """One graph in one precision."""
    with tempfile.TemporaryDirectory() as folder:
        onnx = prepare(plan, Path(folder), typed=True, newest_opset=_OPSET)
        job = Job(str(onnx), "", MODULE, plan.precision, plan.profiles)
        try:
            result = run_worker(job, lambda phase, step, steps: on_progress(f"{plan.graph}: {phase}", step, steps))
        except ScoreEdgeError as error:
            return Verdict(plan.graph, plan.precision, "", 0, 0.0, error.message)
    return Verdict(plan.graph, plan.precision, result["tensorrt"], result["bytes"], result["seconds"])
