"""Hold our calls of TensorRT against NVIDIA's own Python bindings of every version from 8.6 to 11.4, on any x86-64 CPU.

    python tools/check_tensorrt.py FOLDER            # FOLDER keeps the wheels: about 7 MB
    python tools/check_tensorrt.py FOLDER --offline  # those that are there already

The bindings import without TensorRT over a stub of its libraries, a C file of a dozen functions that return nothing. So
classes, signatures and enums are the real ones, and nothing is ever built or run. Prints a table. Exits with 1 where a
call does not fit, with 3 where all fit that are there and some could not be fetched. Needs a C compiler.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

NOT_FETCHED = 3
WHEELS = {
    "8.6.1": "tensorrt-bindings==8.6.1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.7.0": "tensorrt-cu12-bindings==10.7.0",
    "10.13.3": "tensorrt-cu13-bindings==10.13.3.9",
    "10.16.1": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4.0": "tensorrt-cu13-bindings==11.4.0.106",
}
# What we use, and the names of the arguments we hand over, in our order; None for what is no function.
CALLS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "Builder": {
        "create_network": ("flags",),
        "create_builder_config": (),
        "create_optimization_profile": (),
        "build_serialized_network": ("network", "config"),
        "num_DLA_cores": None,
    },
    "OnnxParser": {"parse_from_file": ("model",), "num_errors": None, "get_error": ("index",)},
    "ParserError": {"desc": ()},
    "IBuilderConfig": {
        "clear_flag": ("flag",),
        "set_flag": ("flag",),
        "set_memory_pool_limit": ("pool", "pool_size"),
        "add_optimization_profile": ("profile",),
        "create_timing_cache": ("serialized_timing_cache",),
        "set_timing_cache": ("cache", "ignore_mismatch"),
        "default_device_type": None,
        "DLA_core": None,
    },
    "IOptimizationProfile": {"set_shape": ("input", "min", "opt", "max")},
    "ITimingCache": {"serialize": ()},
    "IHostMemory": {"nbytes": None},
    "Runtime": {"deserialize_cuda_engine": ("serialized_engine",)},
    "ICudaEngine": {
        "create_execution_context": (),
        "num_io_tensors": None,
        "get_tensor_name": ("index",),
        "get_tensor_dtype": ("name",),
        "get_tensor_shape": ("name",),
        "get_tensor_mode": ("name",),
        "get_tensor_profile_shape": ("name", "profile_index"),
    },
    "IExecutionContext": {
        "set_input_shape": ("name", "shape"),
        "set_tensor_address": ("name", "memory"),
        "get_tensor_shape": ("name",),
        "execute_async_v3": ("stream_handle",),
    },
    "ILogger": {"log": ("severity", "msg"), "Severity": None},
    "Logger": dict.fromkeys(("ERROR", "INTERNAL_ERROR")),
    "BuilderFlag": {"TF32": None, "GPU_FALLBACK": None},
    "MemoryPoolType": {"WORKSPACE": None},
    "DeviceType": {"DLA": None},
    "TensorIOMode": {"INPUT": None},
    "DataType": dict.fromkeys(("FLOAT", "HALF", "INT32", "INT8", "BOOL")),
    "NetworkDefinitionCreationFlag": {},
}
# Where there is an IProgressMonitor, these are what TensorRT calls.
MONITOR = {
    "phase_start": ("phase_name", "parent_phase", "num_steps"),
    "step_complete": ("phase_name", "step"),
    "phase_finish": ("phase_name",),
}
# Where TensorRT still calibrates, up to 10, these are what it calls.
CALIBRATOR = {
    "get_batch_size": (),
    "get_batch": ("names",),
    "read_calibration_cache": (),
    "write_calibration_cache": ("cache",),
}
# Only looked at with hasattr, in tensorrt_versions.py; or of TensorRT for RTX alone.
OPTIONAL = {"IProgressMonitor", "progress_monitor", "ComputeCapability", "num_compute_capabilities", "SM86"} | {
    "set_compute_capability",
    "IInt8EntropyCalibrator2",
    "int8_calibrator",
}
# Of Python, numpy and ours, which TensorRT uses for something too.
OURS = {
    "append",
    "pop",
    "name",
    "message",
    "shape",
    "dtype",
    "itemsize",
    "int8",
    "int32",
    "int64",
    "float16",
    "float32",
}
OURS |= {"__init__", "__version__", "allocate", "engine", "precision"}
SOURCES = (
    "score_edge/engines/worker.py",
    "score_edge/engines/tensorrt_versions.py",
    "runtime/graphs/tensorrt_graph.py",
    "runtime/graphs/tensorrt_library.py",
)
STUB = "".join(
    f"void *{name}(void) {{ return 0; }}\n"
    for name in (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getBuilderPluginRegistry",
        "getInferLibVersion",
        "getLogger",
        "getNvOnnxParserVersion",
        "getPluginRegistry",
        "initLibNvInferPlugins",
        # of 8.6, which still read Caffe and UFF
        "_ZN11nvuffparser15createUffParserEv",
        "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
        "_ZN14nvcaffeparser117createCaffeParserEv",
        "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
    )
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


def fetch(folder: Path, version: str) -> bool:
    """Whether the bindings of a version lie in `folder`/version, after getting them with pip."""
    target = folder / version
    if (target / "tensorrt_bindings").is_dir():
        return True
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*pip, "--dest", str(target), WHEELS[version]], capture_output=True, text=True)
    if done.returncode:
        print(f"{WHEELS[version]}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}", file=sys.stderr)
        return False
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    wheel.unlink()
    return True


def compile_stubs(folder: Path) -> Path:
    """Libraries of every major version's names that hold nothing; once."""
    target = folder / "stubs"
    target.mkdir(parents=True, exist_ok=True)
    source = target / "stub.c"
    source.write_text(STUB)
    for major in {version.split(".")[0] for version in WHEELS}:
        for name in LIBRARIES:
            library = f"lib{name}.so.{major}"
            if not (target / library).is_file():
                command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(target / library), str(source)]
                subprocess.run(command, check=True)
    return target


def probe(folder: Path, version: str) -> dict[str, Any]:
    """What `look` finds in the bindings of a version, in a process of its own.

    Raises:
        RuntimeError: they cannot be imported by this Python.
    """
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(compile_stubs(folder)),
        "PYTHONPATH": str(folder / version),
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--look"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"rc {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def look() -> dict[str, Any]:
    """Run inside `probe`: the calls that do not fit, and what tensorrt_versions.py answers."""
    import tensorrt_bindings as trt  # type: ignore[import-not-found]

    from score_edge.engines import tensorrt_versions as versions
    from score_edge.runtime.graphs.tensorrt_library import make_logger

    problems = [
        f"{kind}.{member} {problem}"
        for kind, members in CALLS.items()
        for member, arguments in members.items()
        if (problem := _problem(getattr(trt, kind, None), member, arguments))
    ]
    has_monitor = hasattr(trt, "IProgressMonitor")
    for member, arguments in MONITOR.items() if has_monitor else ():
        if problem := _problem(trt.IProgressMonitor, member, arguments):
            problems.append(f"IProgressMonitor.{member} {problem}")
    calibrates = hasattr(trt, "IInt8EntropyCalibrator2")
    for member, arguments in CALIBRATOR.items() if calibrates else ():
        if problem := _problem(trt.IInt8EntropyCalibrator2, member, arguments):
            problems.append(f"IInt8EntropyCalibrator2.{member} {problem}")
    phases: list[tuple[str, int, int]] = []
    monitor = versions.progress_monitor(trt, lambda *phase: phases.append(phase))
    if monitor is not None:
        monitor.phase_start("tactics", None, 4)
        monitor.step_complete("tactics", 0)
        monitor.phase_finish("tactics")
    logger = make_logger(trt)
    logger.log(trt.ILogger.Severity.ERROR, "bad\n graph")
    logger.log(trt.ILogger.Severity.WARNING, "mere words")
    kinds = [getattr(trt, name) for name in dir(trt) if isinstance(getattr(trt, name), type)]
    flags = trt.NetworkDefinitionCreationFlag
    typed = versions.strongly_typed(trt)
    return {
        "version": trt.__version__,
        "problems": problems,
        "names": sorted({name for kind in kinds for name in vars(kind)} | set(dir(trt))),
        "typed": typed,
        "typed_by_flags": versions.strongly_typed(trt, by_flags=True),
        "flag_values": {name: int(value) for name, value in getattr(flags, "__members__", {}).items()},
        "network_flags": versions.network_flags(trt, typed),
        "precision_flags": {
            precision: [flag.name for flag in versions.precision_flags(trt, typed, precision)]
            for precision in ("fp32", "fp16", "int8")
        },
        "weak_flags": hasattr(trt.BuilderFlag, "FP16")
        and [flag.name for flag in versions.precision_flags(trt, False, "int8")],
        "opset": versions.newest_opset(trt.__version__),
        "monitor": monitor is not None and bool(getattr(trt.IBuilderConfig, "progress_monitor", None)),
        "phases": phases,
        "logged": logger.errors,
        "calibrates": _calibrated(trt)
        if calibrates and hasattr(trt.IBuilderConfig, "int8_calibrator")
        else _refused(trt),
    }


def _calibrated(trt: Any) -> list[Any]:
    """What TensorRT would hear from our calibrator over two steps, before and after it wrote its cache."""
    from score_edge.engines import tensorrt_versions as versions

    with tempfile.TemporaryDirectory() as folder:
        addresses = iter((4096, 8192))
        calibrator = versions.entropy_calibrator(trt, lambda: next(addresses, None), Path(folder, "ranges"))
        said = [calibrator.get_batch_size(), calibrator.read_calibration_cache()]
        said += [calibrator.get_batch(["patches"]) for _ in range(3)]
        calibrator.write_calibration_cache(memoryview(b"ranges"))
        return [*said, calibrator.read_calibration_cache().decode()]


def _refused(trt: Any) -> str:
    from score_edge.engines import tensorrt_versions as versions
    from score_edge.errors import ScoreEdgeError

    try:
        versions.require_calibrator(trt)
    except ScoreEdgeError as error:
        return error.message
    return "nothing"


def _problem(kind: Any, member: str, arguments: tuple[str, ...] | None) -> str:
    found = getattr(kind, member, None)
    if found is None:
        return "is not there"
    signature = found.__doc__ or ""
    missing = [name for name in arguments or () if not re.search(rf"\b{name}\b ?:", signature)]
    return f"takes no {', '.join(missing)}" if missing else ""


def uncovered(root: Path, names: set[str]) -> set[str]:
    """Names of TensorRT that our sources use and CALLS does not have: what would go unchecked."""
    used = set()
    for source in SOURCES:
        tree = ast.parse((root / source).read_text(encoding="utf-8"))
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    covered = (
        {member for members in CALLS.values() for member in members}
        | set(CALLS)
        | set(MONITOR)
        | set(CALIBRATOR)
        | OPTIONAL
    )
    return (used & names) - covered - OURS


def main() -> int:
    """Parse the arguments, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="keeps the wheels")
    parser.add_argument("--offline", action="store_true", help="do not fetch what is missing")
    arguments = parser.parse_args()
    calls = sum(len(members) for members in CALLS.values())
    print(f"| bindings | {calls} calls | strongly typed | FP16, INT8 flags | opset | progress | calibrates |")
    print("|---|---|---|---|---|---|---|")
    fits, missing = True, False
    for version in WHEELS:
        there = (
            (arguments.folder / version / "tensorrt_bindings").is_dir()
            if arguments.offline
            else fetch(arguments.folder, version)
        )
        if not there:
            missing = True
            print(f"| {version} | not there for this Python and machine | | | | | |")
            continue
        found = probe(arguments.folder, version)
        fits &= not found["problems"]
        said = "all fit" if not found["problems"] else "; ".join(found["problems"])
        typed = f"yes, flag {found['network_flags']}" if found["typed"] else f"no, flag {found['network_flags']}"
        weak, monitor = ("yes" if found[key] else "no" for key in ("weak_flags", "monitor"))
        ranges = "yes" if isinstance(found["calibrates"], list) else "no"
        print(f"| {found['version']} | {said} | {typed} | {weak} | {found['opset']} | {monitor} | {ranges} |")
    return (NOT_FETCHED if missing else 0) if fits else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--look"]:
        print(json.dumps(look()))
    else:
        sys.exit(main())
