"""`score-edge build`: a bundle's graphs become TensorRT engines, each compared with ONNX Runtime before it is filed."""

import contextlib
import dataclasses
import errno
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.bundle.atomic import atomic_folder
from score_edge.bundle.external import file_sha256
from score_edge.bundle.folder import Bundle
from score_edge.bundle.user_cache import make_private
from score_edge.engines import tensorrt_versions as versions
from score_edge.engines.implicit import ImplicitCalibration, collect
from score_edge.engines.plan import JUDGED_ON, GraphPlan, plan_graphs, prepare
from score_edge.engines.worker import Job
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.difference import Difference, compare_outputs, worst
from score_edge.onnx_files.precision import Precision
from score_edge.runtime.graphs.base import Array, CachedGraph
from score_edge.runtime.graphs.cuda_driver import Gpu, require_gpu
from score_edge.runtime.graphs.engine_files import (
    Engine,
    EngineRecord,
    build_command,
    engine_folder,
    engines_of,
    graph_hash,
    read_records,
    timing_cache,
)
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.graphs.tensorrt_library import load_tensorrt
from score_edge.runtime.sources.sample_steps import cells_of, sample_steps

# Largest difference from ONNX Runtime on the CPU, over its largest value. Chosen, not measured: no engine ran here yet.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2}
_REMEDY: dict[tuple[Precision, Precision], str] = {
    ("fp32", "fp16"): "build in fp32",
    ("fp32", "int8"): "`score-edge calibrate` leaves the layers that INT8 hurts in FP32: build what it makes",
}
_OUTPUT = {"encoder": "tokens", "incremental": "tokens", "policy": "keep"}

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Built:
    """Engines that were filed.

    Attributes:
        folder: where they are.
        differences: from ONNX Runtime, the worst per graph.
        seconds: TensorRT took, per graph.
    """

    folder: Path
    record: EngineRecord
    differences: list[Difference]
    seconds: dict[str, float]


def build_engines(
    bundle: Bundle,
    precision: Precision | None = None,
    *,
    workspace: int | None = None,
    dla: int | None = None,
    video: str | Path | None = None,
    implicit: bool = False,
    on_progress: OnProgress = lambda phase, step, steps: None,
) -> Built:
    """Build, compare and file the engines of a bundle for this machine's GPU and TensorRT.

    The folder appears whole or not at all; engines that were there before stay until it does.

    Args:
        bundle: opened.
        precision: see `plan_graphs`.
        workspace: MiB the builder may use; None leaves it to TensorRT.
        dla: core of the deep learning accelerator, for the encoder, in fp16 or implicit INT8.
        video: on whose beginning the engines are compared; None renders some.
        implicit: let TensorRT, up to 10, find the ranges of INT8 on `video`, or take those of an earlier build.
        on_progress: called with (phase, step, steps).

    Raises:
        ScoreEdgeError: no GPU, no TensorRT, a graph that TensorRT refuses, an engine that computes something else, a
            full disk.

    Example:
        >>> build_engines(Bundle.open("bundle"), "fp16").folder.name  # doctest: +SKIP
        'sm87x16-trt10.3.0-fp16'
    """
    gpu, tensorrt = this_machine(bundle, precision, implicit)
    if implicit:
        versions.require_calibrator(load_tensorrt())
    plans = plan_graphs(bundle, precision, implicit=implicit)
    wanted = plans[0].precision
    _check_dla(dla, wanted, implicit)
    target = engine_folder(bundle, gpu, tensorrt, wanted)
    with _disk(target):
        make_private(target.parent)
        with atomic_folder(target, overwrite=True) as new:
            new.chmod(0o700)
            engines: list[Engine] = []
            differences: list[Difference] = []
            seconds: dict[str, float] = {}
            on_progress("choosing frames", 0, 0)
            footage = collect(bundle, tensorrt, video, new) if implicit else None
            steps = footage.held_out if footage else steps_to_judge(bundle, video)
            timing = timing_cache(gpu, tensorrt)
            for plan in plans:
                core, shown = (dla, footage) if plan.graph == "encoder" else (None, None)
                seconds[plan.graph] = _build_one(plan, new, timing, workspace, core, shown, on_progress)
                on_progress(f"comparing the {plan.graph} with ONNX Runtime", 0, 0)
                difference = _compare(bundle, plan, new, steps, "video" if video else "rendered")
                differences.append(difference)
                engines.append(_filed(bundle, plan, new, difference))
            record = EngineRecord(tensorrt, str(gpu), wanted, _newest(bundle), tuple(engines), implicit)
            record.write(new)
    return Built(target, record, differences, seconds)


def steps_to_judge(bundle: Bundle, video: str | Path | None) -> list[dict[str, Array]]:
    """JUDGED_ON encoder inputs: of the footage, and where it is shorter or there is none, rendered ones."""
    vision = bundle.manifest.vision
    steps = sample_steps(vision, video, JUDGED_ON)
    return [*steps, *sample_steps(vision, None, JUDGED_ON)[len(steps) :]]


def this_machine(bundle: Bundle, precision: Precision | None = None, implicit: bool = False) -> tuple[Gpu, str]:
    """The GPU and the version of TensorRT that engines would be built for.

    Raises:
        ScoreEdgeError: one of them is missing; the hint says what to run on the board.
    """
    try:
        gpu = require_gpu("building engines")
    except ScoreEdgeError as error:
        raise ScoreEdgeError(
            error.message,
            f"engines are built where they run: `{build_command(bundle, precision, implicit)}` on the board. Here "
            "--dry-run shows the plan, and --check has TensorRT for RTX parse and build the graphs",
        ) from error
    return gpu, str(load_tensorrt().__version__)


def describe_plan(
    bundle: Bundle,
    precision: Precision | None = None,
    *,
    workspace: int | None = None,
    dla: int | None = None,
    video: str | Path | None = None,
    implicit: bool = False,
) -> dict[str, Any]:
    """What `build_engines` would do, as plain JSON values; needs neither a GPU nor TensorRT.

    Args:
        bundle, precision, workspace, dla, video, implicit: see there; the video is not opened.

    Raises:
        ScoreEdgeError: what it would refuse about the graphs.
    """
    plans = plan_graphs(bundle, precision, implicit=implicit)
    wanted = plans[0].precision
    _check_dla(dla, wanted, implicit)
    command = build_command(bundle, wanted, implicit, workspace=workspace, dla=dla, video=video)
    try:
        gpu, tensorrt = this_machine(bundle, wanted, implicit)
        machine, folder = f"{gpu}, TensorRT {tensorrt}", engine_folder(bundle, gpu, tensorrt, wanted)
    except ScoreEdgeError as error:
        machine, folder = error.message, engines_of(bundle) / f"smXXxN-trtX.Y.Z-{wanted}"
    graphs = [
        {
            "graph": plan.graph,
            "onnx": plan.onnx.name,
            "opset": plan.opset,
            "precision": plan.precision,
            "engine": f"{plan.graph}.engine",
            "shapes": {name: [profile.least, profile.usual, profile.most] for name, profile in plan.profiles.items()},
            "tolerance": TOLERANCE[plan.precision],
        }
        for plan in plans
    ]
    return {"graphs": graphs, "folder": str(folder), "machine": machine, "command": command}


def run_worker(job: Job, on_progress: OnProgress) -> dict[str, Any]:
    """Build in a process of its own, which dies with this call, however it ends.

    Returns:
        ``tensorrt`` (version), ``bytes`` and ``seconds``.

    Raises:
        ScoreEdgeError: what the worker reports, or that it died.
    """
    command = [sys.executable, "-m", "score_edge.engines.worker", job.to_json()]
    result: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        # A session of its own: Ctrl-C reaches us alone, and we end it.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, encoding="utf-8", start_new_session=True
        )
        try:
            for line in process.stdout or ():
                result = json.loads(line)
                if "phase" in result:
                    on_progress(result["phase"], result["step"], result["steps"])
            process.wait()
        finally:
            process.kill()
            process.wait()
        if "error" in result:
            raise ScoreEdgeError(f"{Path(job.onnx).name}, {job.precision}: {result['error']}", result["hint"])
        if "bytes" not in result:
            stderr.seek(0)
            said = " ".join(stderr.read().split()[-40:])
            died = f"died of signal {-process.returncode}" if process.returncode < 0 else "ended without a result"
            raise ScoreEdgeError(
                f"{Path(job.onnx).name}, {job.precision}: the process of {job.module} {died}: {said or 'no word'}",
                "too little memory? Close other programs, or give less --workspace"
                if process.returncode == -9
                else "please report it with the versions `score-edge doctor` prints",
            )
    return result


def _check_dla(dla: int | None, wanted: Precision, implicit: bool) -> None:
    if dla is not None and wanted != "fp16" and not implicit:
        raise ScoreEdgeError(f"a DLA takes no {wanted} graph of ours", "--precision fp16 with --dla")


def _build_one(
    plan: GraphPlan,
    new: Path,
    timing: Path,
    workspace: int | None,
    dla: int | None,
    footage: ImplicitCalibration | None,
    on_progress: OnProgress,
) -> float:
    """Write ``GRAPH.engine`` into a folder, keep the kernel timings, return the seconds."""
    trt = load_tensorrt()
    measured = new / timing.name
    if timing.is_file():
        measured.write_bytes(timing.read_bytes())
    job = Job(
        onnx=str(plan.onnx),
        engine=str(new / f"{plan.graph}.engine"),
        module="tensorrt",
        precision=plan.precision,
        profiles=plan.profiles,
        workspace=workspace,
        dla=dla,
        timing=str(measured),
        ranges=str(footage.cache) if footage else "",
        steps=str(footage.steps or "") if footage else "",
    )
    typed = versions.strongly_typed(trt, job.by_flags)
    onnx = prepare(plan, new, typed=typed, newest_opset=versions.newest_opset(trt.__version__))
    job = dataclasses.replace(job, onnx=str(onnx))
    result = run_worker(job, lambda phase, step, steps: on_progress(f"{plan.graph}: {phase}", step, steps))
    measured.replace(timing)  # whatever comes of the engine, they are worth keeping
    if footage is not None:
        footage.cache.replace(footage.filed)
        if footage.steps is not None:
            footage.steps.unlink()
    if onnx != plan.onnx:
        for path in new.glob(f"{onnx.name}*"):
            path.unlink()
    return float(result["seconds"])


def _compare(bundle: Bundle, plan: GraphPlan, folder: Path, steps: list[dict[str, Array]], data: str) -> Difference:
    from score_edge.runtime.graphs.tensorrt_graph import TensorRTGraph

    reference, engine = OnnxGraph(plan.onnx, simulate=True), TensorRTGraph(folder / f"{plan.graph}.engine")
    output = _OUTPUT[plan.graph]
    if plan.graph == "incremental":
        expected, got = (list(_cell_by_cell(bundle, graph, steps)) for graph in (reference, engine))
    else:
        inputs = steps if plan.graph == "encoder" else _policy_inputs(bundle, steps)
        expected, got = ([graph.run(**given)[output] for given in inputs] for graph in (reference, engine))
    found = worst(compare_outputs(output, *pair, data) for pair in zip(expected, got, strict=True))
    allowed = TOLERANCE[plan.precision]
    if not found.relative <= allowed:
        raise ScoreEdgeError(
            f"the {plan.graph} engine in {plan.precision} is {found.relative:.2g} of the largest value away from ONNX "
            f"Runtime, allowed is {allowed:.2g} (cosine of the worst row {found.cosine:.6f}): it was not kept",
            _REMEDY.get((plan.made_as, plan.precision), "please report it with what `score-edge doctor` prints"),
        )
    return found


def _cell_by_cell(bundle: Bundle, graph: CachedGraph, steps: list[dict[str, Array]]) -> Iterator[Array]:
    """The tokens of all cells of the first step, and of a third of them of every later one, over the cache so far."""
    vision = bundle.manifest.vision
    count, chosen, cache = vision.token_grid.tokens, np.random.default_rng(0), graph.start()
    for number, step in enumerate(steps):
        cells = chosen.permutation(count)[: count if number == 0 else -(-count // 3)]
        yield graph.run_cached(cache, patches=cells_of(vision, step)[cells], cells=cells)["tokens"]


def _policy_inputs(bundle: Bundle, steps: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """The policy sees a step and the one before it."""
    encoder = OnnxGraph(bundle.encoder_path)
    tokens = [encoder.run(**step)["tokens"] for step in steps]
    return [{"tokens": tokens[i], "previous": tokens[max(i - 1, 0)]} for i in range(len(tokens))]


def _filed(bundle: Bundle, plan: GraphPlan, folder: Path, difference: Difference) -> Engine:
    return Engine(
        graph=plan.graph,
        sha256=file_sha256(folder / f"{plan.graph}.engine"),
        onnx=graph_hash(bundle, plan.graph),
        precision=plan.precision,
        relative=difference.relative,
        cosine=difference.cosine,
    )


def _newest(bundle: Bundle) -> str:
    """ISO 8601 of now, or right behind what was built before: many boards know no time until a network tells them."""
    now = datetime.now(timezone.utc)
    for record in read_records(bundle).values():
        if isinstance(record, EngineRecord):
            with contextlib.suppress(ValueError, TypeError, OverflowError):  # meddled with
                now = max(now, datetime.fromisoformat(record.created) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds")


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = "free some disk space" if full else "check its permissions, or name another place in XDG_CACHE_HOME"
        raise ScoreEdgeError(f"cannot write {target}: {error}", hint) from error
