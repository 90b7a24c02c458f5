"""A bundle against this machine: whole, its graphs open, its engines of this TensorRT, its model fits into memory."""

import re
from collections.abc import Iterator

from score_edge.bundle import Bundle
from score_edge.doctor.check import Check
from score_edge.doctor.software import tensorrt_version
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.board import memory_bytes

_GIB = 1 << 30
_ENGINES = (".engine", ".plan", ".trt")


def check_bundle(folder: str) -> Iterator[Check]:
    """Every finding about one bundle."""
    try:
        bundle = Bundle.open(folder)
    except ScoreEdgeError as error:
        yield Check("bundle", "fail", error.message, error.hint)
        return
    yield Check(
        "bundle", "ok", f"{bundle.manifest.name} ({bundle.manifest.family}), {len(bundle.paths)} files are whole"
    )
    try:
        from score_edge.inspection import check_graphs

        check_graphs(bundle)
        yield Check("graphs", "ok", "encoder and policy open and have the shapes of bundle.json")
    except ScoreEdgeError as error:
        yield Check("graphs", "fail", error.message, error.hint)
    yield from _memory(bundle)
    for engine in [path for path in bundle.paths.values() if path.suffix in _ENGINES]:
        yield check_engine(engine.name, bundle.manifest.provenance.versions.get("tensorrt"), tensorrt_version())


def check_engine(name: str, built: str | None, here: str | None) -> Check:
    """Whether an engine can run: only the TensorRT that built it reads it, up to the third number."""
    again = "score-edge build    # on this board"
    if here is None:
        return Check(
            "engine", "fail", f"{name} needs TensorRT, which is not installed", "sudo apt install nvidia-jetpack"
        )
    if built is None:
        return Check("engine", "warn", f"{name} does not say which TensorRT built it; here is {here}", again)
    if _numbers(built) != _numbers(here):
        return Check("engine", "fail", f"{name} was built by TensorRT {built}; here is {here}", again)
    return Check("engine", "ok", f"{name} was built by TensorRT {built}, as here")


def _memory(bundle: Bundle) -> Iterator[Check]:
    memory = memory_bytes()
    if memory is None:
        return
    files = sum(path.stat().st_size for path in {*bundle.paths.values(), bundle.gguf_path})
    needed = files * 1.2 + _GIB / 4
    text = f"models of {files / _GIB:.2f} GiB, {memory[0] / _GIB:.1f} GiB available"
    if needed > memory[0]:
        yield Check("bundle memory", "fail", f"{text}: they do not fit", "sudo systemctl isolate multi-user.target")
    else:
        yield Check("bundle memory", "ok", text)


def _numbers(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:3]
