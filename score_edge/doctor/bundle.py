"""A bundle against this machine: whole, its graphs open, what runs it, its model fits into memory."""

import json
import subprocess
import sys
from collections.abc import Iterator

from score_edge.bundle.external import model_parts
from score_edge.bundle.folder import Bundle
from score_edge.doctor.check import Check
from score_edge.doctor.inspection import check_graph_shapes, check_model
from score_edge.doctor.software import tensorrt_version
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.board import cpu_features, memory_bytes
from score_edge.runtime.graphs.cpu_int8 import OVERFLOWS, REMEDY, overflows
from score_edge.runtime.graphs.cuda_driver import cuda_devices, require_gpu
from score_edge.runtime.graphs.engine_files import build_command, incompatible, read_records

_GIB, _MIB = 1 << 30, 1 << 20
_SECONDS = 300
_OPEN = """
import json, sys
from score_edge.bundle.folder import Bundle
from score_edge.runtime.graphs.open_graph import open_graph
graph, passed_over = open_graph(Bundle.open(sys.argv[1], checksums=False), "encoder")
print(json.dumps([graph.provider, passed_over]), flush=True)
"""


def check_bundle(folder: str) -> Iterator[Check]:
    """Every finding about one bundle."""
    try:
        bundle = Bundle.open(folder)
        check_model(bundle)
    except ScoreEdgeError as error:
        yield Check("bundle", "fail", error.message, error.hint)
        return
    if bundle.manifest.language.path is not None and not bundle.manifest.language.parts:
        finding = "bundle.json does not say what its language model must be: another file in its place goes unnoticed"
        yield Check("bundle", "warn", finding, "score-edge export …    # writes size and checksum")
    yield Check(
        "bundle", "ok", f"{bundle.manifest.name} ({bundle.manifest.family}), {len(bundle.paths)} files are whole"
    )
    try:
        check_graph_shapes(bundle)
        yield Check("graphs", "ok", f"{', '.join(bundle.graphs)} open and have the shapes of bundle.json")
        yield check_incremental(bundle)
        provider = check_bundle_provider(folder)
        yield provider
        if provider.finding.startswith("runs on CPU"):
            yield from check_int8(bundle, cpu_features())
    except ScoreEdgeError as error:
        yield Check("graphs", "fail", error.message, error.hint)
    yield from _memory(bundle)
    gpu = None if isinstance(cuda_devices(), str) else str(require_gpu("an engine"))
    yield from check_engines(bundle, gpu, tensorrt_version())


def check_engines(bundle: Bundle, gpu: str | None, tensorrt: str | None) -> Iterator[Check]:
    """Whether each engine of these graphs can run here: on the GPU, TensorRT and graph it was built for.

    Args:
        bundle: opened.
        gpu: `str(Gpu)` of this machine; None without one.
        tensorrt: its version; None without one.
    """
    if (bundle.folder / "engines").is_dir():
        finding = f"{bundle.folder / 'engines'} is never loaded: engines are native code, and stay where they are built"
        yield Check("engine", "warn", finding, build_command(bundle))
    for folder, record in read_records(bundle).items():
        if isinstance(record, str):
            yield Check("engine", "warn", f"{folder.name}: {record}", f"rm -r {folder}")
            continue
        again = build_command(bundle, record.precision, record.implicit)
        about = f"{folder.name}: {', '.join(engine.graph for engine in record.engines)}"
        if tensorrt is None:
            yield Check("engine", "warn", f"{about}; TensorRT is not installed here", "sudo apt install nvidia-jetpack")
        elif gpu is None:
            yield Check("engine", "warn", f"{about}; there is no GPU here to run it")
        elif reason := next(
            (said for one in record.engines if (said := incompatible(bundle, record, one, gpu, tensorrt))), None
        ):
            # A bundle that travels between boards holds engines for each of them; this one waits for another.
            yield Check("engine", "warn", f"{about}; not used: {reason}", again)
        else:
            worst = max(engine.relative for engine in record.engines)
            yield Check("engine", "ok", f"{about}; built here, at most {worst:.2g} away from ONNX Runtime")


def check_bundle_provider(folder: str) -> Check:
    """What `--provider auto` takes for the encoder, and why it takes nothing better; in a process of its own."""
    command, instead = [sys.executable, "-c", _OPEN, folder], "score-edge ask … --provider cpu"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return Check("encoder", "fail", f"it does not open within {_SECONDS} s", instead)
    try:
        taken, passed_over = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = " ".join(done.stderr.split()[-30:])
        return Check("encoder", "fail", f"it does not open: {said or done.returncode}", instead)
    why = "".join(f"; not {provider}: {reason}" for provider, reason in passed_over.items())
    return Check("encoder", "ok", f"runs on {taken}{why}")


def check_incremental(bundle: Bundle) -> Check:
    """Whether only what changed is encoded."""
    vision = bundle.manifest.vision
    if vision.incremental is None:
        return Check(
            "cells", "ok", "no incremental graph: a step is encoded whole, or not at all where nothing changed"
        )
    memory = f"{vision.incremental.bytes_per_source / _MIB:.1f} MiB of keys and values per source"
    return Check("cells", "ok", f"encoded again from {vision.change_threshold:g} grey levels of change on; {memory}")


def check_int8(bundle: Bundle, features: list[str]) -> Iterator[Check]:
    """Whether this CPU computes an encoder right that was quantised for TensorRT.

    Args:
        bundle: opened.
        features: of the CPU, see `cpu_features`.
    """
    if overflows(bundle.manifest.vision.int8, features):
        yield Check("INT8", "warn", OVERFLOWS, REMEDY)


def _memory(bundle: Bundle) -> Iterator[Check]:
    memory = memory_bytes()
    if memory is None:
        return
    files = sum(path.stat().st_size for path in {*bundle.paths.values(), *model_parts(bundle.gguf_path)})
    needed = files * 1.2 + _GIB / 4
    text = f"models of {files / _GIB:.2f} GiB, {memory[0] / _GIB:.1f} GiB available"
    if needed > memory[0]:
        yield Check("bundle memory", "fail", f"{text}: they do not fit", "sudo systemctl isolate multi-user.target")
    else:
        yield Check("bundle memory", "ok", text)
