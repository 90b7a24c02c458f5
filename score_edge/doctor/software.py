"""The software: ONNX Runtime's providers, llama.cpp's build, TensorRT and TensorRT-LLM; opened, not listed."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from score_edge.doctor.check import Check
from score_edge.errors import ScoreEdgeError
from score_edge.install import distribution_version, install_command, on_jetson
from score_edge.profiling.board import cpu_features, l4t_release
from score_edge.runtime.graphs.cuda_driver import cuda_devices

_SECONDS = 120
# y = x + x over four floats, opset 13: written by `onnx`, kept as bytes so that nobody needs onnx to run it.
_GRAPH = (
    "080712003a370a0e0a01780a01781201792203416464120374776f5a0f0a0178120a0a08080112040a020804620f0a0179120a0a0808"
    "0112040a02080442040a00100d"
)
_OPEN_PROVIDER = f"""
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(bytes.fromhex("{_GRAPH}"), options, providers=[sys.argv[1]])
result = session.run(None, {{"x": numpy.ones(4, numpy.float32)}})[0]
print(session.get_providers()[0] if (result == 2).all() else "wrong result")
"""
_REMOTE = {"AzureExecutionProvider"}
_REBUILD = 'CMAKE_ARGS="{}" pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python'
_CUDA_BUILD = _REBUILD.format("-DGGML_CUDA=on -DLLAVA_BUILD=OFF")
_CPU_BUILD = _REBUILD.format("-DLLAVA_BUILD=OFF")


def check_onnxruntime() -> Iterator[Check]:
    """Which one it is, and every local provider in a process of its own on one node: lists lie, some crash."""
    bring = install_command("onnxruntime")
    wheels = [name for name in ("onnxruntime", "onnxruntime-gpu") if distribution_version(name)]
    if importlib.util.find_spec("onnxruntime") is None:
        yield Check("ONNX Runtime", "fail", "not installed", bring)
        return
    if len(wheels) > 1:
        fix = f"pip uninstall -y onnxruntime onnxruntime-gpu && {bring}"
        yield Check("ONNX Runtime", "fail", "onnxruntime and onnxruntime-gpu overwrite each other", fix)
    try:
        import onnxruntime

        providers = [name for name in onnxruntime.get_available_providers() if name not in _REMOTE]
        found = onnxruntime.__version__
    except (ImportError, AttributeError) as error:
        fix = f"pip uninstall -y {' '.join(wheels)} && {bring}" if wheels else bring
        yield Check("ONNX Runtime", "fail", f"cannot be imported: {error}", fix)
        return
    yield Check("ONNX Runtime", "ok", f"{' and '.join(wheels) or 'built apart'} {found} at {folder_of(onnxruntime)}")
    if on_jetson() and "CUDAExecutionProvider" not in providers:
        finding = "without CUDA: the encoder runs on the CPU where it has no TensorRT engine"
        yield Check("ONNX Runtime", "warn", finding, bring)
    for provider in providers:
        yield check_provider(provider)


def folder_of(module: ModuleType) -> str:
    """Where a package was imported from."""
    return str(Path(module.__file__ or "").parent)


def check_provider(provider: str) -> Check:
    """One execution provider, really opened."""
    command = [sys.executable, "-c", _OPEN_PROVIDER, provider]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, errors="replace")
    except subprocess.TimeoutExpired:
        return Check("provider", "warn", f"{provider} does not open within {_SECONDS} s")
    used = done.stdout.strip()
    if used == provider:
        return Check("provider", "ok", f"{provider} opens and computes")
    status = "fail" if provider == "CPUExecutionProvider" else "warn"
    if used:
        finding = f"{provider} is listed, but the graph ran on {used}"
    else:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        finding = (
            f"{provider} is listed and does not open: {' '.join(said[-1].split())[:200] if said else done.returncode}"
        )
    instead = install_command("onnxruntime") if on_jetson() else "pip install onnxruntime"
    fix = f"pip uninstall -y onnxruntime-gpu && {instead}"
    return Check("provider", status, finding, fix)  # type: ignore[arg-type]


def check_llama() -> Iterator[Check]:
    """llama.cpp: whether it is there, what it was built with, and whether that fits this machine."""
    gpu = not isinstance(cuda_devices(), str)
    build = _CUDA_BUILD if gpu else _CPU_BUILD
    try:
        from score_edge.runtime.language.llama_library import library, system_info

        llama = library()
    except ScoreEdgeError:
        yield Check("llama.cpp", "fail", "llama-cpp-python is not installed", build)
        return
    except (OSError, RuntimeError) as error:  # the shared library was built for another machine
        yield Check("llama.cpp", "fail", f"llama-cpp-python does not load: {error}", build)
        return
    built = system_info()
    yield Check("llama.cpp", "ok", f"llama-cpp-python {distribution_version('llama-cpp-python')}, {built}")
    if gpu and not llama.llama_supports_gpu_offload():
        yield Check("llama.cpp GPU", "warn", "there is a GPU, and llama.cpp was built without it", _CUDA_BUILD)
    flags = set(re.findall(r"\w+", built))
    missing = [name for name in ("AVX2", "AVX512") if _has(name) and name not in flags]
    if missing:
        finding = f"the CPU has {', '.join(missing)}, and llama.cpp was built without"
        yield Check("llama.cpp CPU", "warn", finding, _CPU_BUILD)
    if "amx_tile" in cpu_features():
        yield Check(
            "llama.cpp AMX", "ok", "the CPU has AMX: extra buffers are switched off, builds by gcc 12 crash on them"
        )


def check_tensorrt() -> Iterator[Check]:
    """TensorRT, without touching it: without a driver that can end the process."""
    version = tensorrt_version()
    gpu = not isinstance(cuda_devices(), str)
    if version:
        yield Check("TensorRT", "ok" if gpu else "warn", f"{version}{'' if gpu else ', and no GPU to run it'}")
    elif gpu:
        fix = "sudo apt install nvidia-jetpack" if l4t_release() else "pip install tensorrt"
        yield Check("TensorRT", "warn", "not installed: the encoder runs on ONNX Runtime", fix)
    else:
        yield Check("TensorRT", "ok", "not installed, and no GPU to run it")


def tensorrt_version() -> str | None:
    """Of the Python bindings, or of the library that JetPack installs."""
    for name in ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):  # tensorrt-rtx is another product
        if found := distribution_version(name):
            return found
    try:
        said = subprocess.run(["dpkg-query", "-W", "-f=${Version}", "libnvinfer-bin"], capture_output=True, text=True)
    except OSError:
        return None
    found = said.stdout.split("-")[0]
    return found or None


def check_tensorrt_llm() -> Iterator[Check]:
    """TensorRT-LLM, the second language backend."""
    from score_edge.runtime.language.tensorrt_llm import WORKING, installed_version, usable_ways

    version = installed_version()
    if version is None:
        yield Check("TensorRT-LLM", "ok", "not installed; llama.cpp is the language backend")
    elif ways := usable_ways(version):
        said = "never run on hardware by score-edge; no incremental prefill: every question prefills the video again"
        yield Check("TensorRT-LLM", "warn", f"{version} for {' and '.join(ways)}; {said}")
    else:
        fix = 'pip install "tensorrt-llm==1.2.*" --extra-index-url https://pypi.nvidia.com'
        yield Check("TensorRT-LLM", "warn", f"{version} was never looked at; {WORKING}", fix)


def _has(feature: str) -> bool:
    known = {"AVX2": "avx2", "AVX512": "avx512f"}
    return known[feature] in cpu_features() and os.uname().machine == "x86_64"
