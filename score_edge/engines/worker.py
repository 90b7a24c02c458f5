"""One engine, built in a process of its own: `python -m score_edge.engines.worker JOB`, where JOB is JSON.

TensorRT may end the process it runs in, holds the interpreter for minutes and is deaf to Ctrl-C, so whoever has
something to lose does not build in its own. Every line on stdout is JSON: {"phase", "step", "steps"} while it builds,
and {"error", "hint"} or {"tensorrt", "bytes", "seconds"} at the end.
"""

import ctypes
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from score_edge.bundle.record import read_record
from score_edge.engines import tensorrt_versions as versions
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.precision import Precision
from score_edge.runtime.graphs.cuda_driver import require_gpu
from score_edge.runtime.graphs.cuda_memory import Cuda
from score_edge.runtime.graphs.tensorrt_library import load_tensorrt, make_logger


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one input: smallest, usual, largest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What to build.

    Attributes:
        onnx: path of the graph, of an opset and (strongly typed) precision that this TensorRT takes.
        engine: path to write; empty only tries.
        module: ``"tensorrt"`` or ``"tensorrt_rtx"``.
        profiles: of every input, by name.
        workspace: MiB the builder may use; None leaves it to TensorRT.
        dla: core of the deep learning accelerator; None takes the GPU.
        timing: path of the timing cache, read where it exists, and written; empty goes without.
        ranges: path of TensorRT's own INT8 ranges, read where it exists, else found on `steps` and written; empty where
            the graph has its scales or needs none.
        steps: path of values of the one input, float32, one step behind the other.
    """

    onnx: str
    engine: str
    module: str
    precision: Precision
    profiles: dict[str, Profile]
    workspace: int | None = None
    dla: int | None = None
    timing: str = ""
    ranges: str = ""
    steps: str = ""

    @property
    def by_flags(self) -> bool:
        """Whether this needs a network whose precision is the builder's choice, where there is one."""
        return self.dla is not None or bool(self.ranges)

    def to_json(self) -> str:
        """For the command line of the worker."""
        return json.dumps(dataclasses.asdict(self))


def build(job: Job, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Parse, build and write.

    Raises:
        ScoreEdgeError: no GPU; TensorRT refuses the graph, with its own words.
        OSError: the engine cannot be written.
    """
    began = time.perf_counter()
    if job.module == "tensorrt":
        require_gpu("TensorRT")
    trt = load_tensorrt(job.module)
    logger = make_logger(trt)
    typed = versions.strongly_typed(trt, job.by_flags)
    builder = trt.Builder(logger)
    network = builder.create_network(versions.network_flags(trt, typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(job.onnx):  # and not parse(): weights may lie beside the file
        reasons = [" ".join(parser.get_error(i).desc().split()) for i in range(parser.num_errors)]
        raise ScoreEdgeError(f"TensorRT's parser refuses it: {'; '.join(reasons[:3]) or 'no reason given'}")
    config = builder.create_builder_config()
    # fp32 means fp32: TF32 rounds products to the ten bits of fp16, at a cost in accuracy that nobody asked for.
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in versions.precision_flags(trt, typed, job.precision):
        config.set_flag(flag)
    if job.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace << 20)
    if job.dla is not None:
        _use_dla(trt, builder, config, job.dla)
    if job.module == "tensorrt_rtx":
        versions.target_without_gpu(trt, config)
    profile = builder.create_optimization_profile()
    for name, shapes in job.profiles.items():
        profile.set_shape(name, shapes.least, shapes.usual, shapes.most)
    config.add_optimization_profile(profile)
    calibrator = _calibrator(trt, job) if job.ranges else None
    if calibrator is not None:
        config.int8_calibrator = calibrator
    cache = _timing_cache(config, Path(job.timing)) if job.timing else None
    monitor = versions.progress_monitor(
        trt, lambda phase, step, steps: report({"phase": phase, "step": step, "steps": steps})
    )
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ScoreEdgeError(f"TensorRT's builder refuses it: {'; '.join(logger.errors[:2]) or 'no reason given'}")
    if job.engine:
        Path(job.engine).write_bytes(plan)
    if cache is not None:
        Path(job.timing).write_bytes(cache.serialize())
    return {"tensorrt": trt.__version__, "bytes": plan.nbytes, "seconds": time.perf_counter() - began}


def _use_dla(trt: Any, builder: Any, config: Any, core: int) -> None:
    if core >= builder.num_DLA_cores:
        raise ScoreEdgeError(
            f"TensorRT {trt.__version__} offers {builder.num_DLA_cores} DLA cores here, so there is no core {core}",
            "TensorRT 11.0 to 11.4.0 and Orin Nano, Thor and PCs have none: leave --dla out",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # a DLA knows no LayerNorm and no attention


def _calibrator(trt: Any, job: Job) -> Any:
    (shape,) = (profile.most for profile in job.profiles.values())
    cuda = Cuda()
    buffer = cuda.allocate(4 * math.prod(shape))
    steps = iter(np.memmap(job.steps, np.float32, "r").reshape(-1, math.prod(shape)) if job.steps else ())

    def next_step() -> int | None:
        step = next(steps, None)
        if step is None:
            return None
        cuda.enter()
        buffer.host.view(np.float32)[:] = step
        cuda.upload(buffer, step.nbytes)
        cuda.wait()
        return buffer.pointer

    return versions.entropy_calibrator(trt, next_step, Path(job.ranges))


def _timing_cache(config: Any, path: Path) -> Any:
    cache = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
    if cache is None:  # there was none, or it is damaged
        cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def main(text: str, stdout: TextIO) -> int:
    """Run a job and report; 0 where there is an engine."""

    def report(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=stdout, flush=True)

    try:
        report(build(read_record(Job, json.loads(text), "job"), report))
    except ScoreEdgeError as error:
        report({"error": error.message, "hint": error.hint})
        return 1
    except OSError as error:
        report({"error": str(error), "hint": "free some disk space, or check the path and its permissions"})
        return 1
    return 0


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with whoever started this, even if it is killed
    # TensorRT's libraries print on stdout where they like, and that must not mix with ours.
    ours = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    code = main(sys.argv[1], ours)
    ours.flush()
    os._exit(code)  # without a driver some versions crash when their objects are destroyed
