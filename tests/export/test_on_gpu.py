"""Every family's encoder on ONNX Runtime's CUDA provider, in FP32 and as Q/DQ, beside the CPU: tools/on_gpu.sh."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.runtime.graphs.onnx_graph import OnnxGraph

CUDA = "CUDAExecutionProvider"
RUNS = 20
pytestmark = pytest.mark.usefixtures("gpu", "cuda_provider")


@pytest.fixture(scope="session")
def cuda_provider(gpu: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} has no {CUDA}: onnxruntime-gpu is not installed")
    for module in ("torch", "transformers", "onnx", "gguf"):
        pytest.importorskip(module)


def compared(path: Path, inputs: dict[str, Any], exact: bool) -> tuple[float, str]:
    """(largest difference over largest value, words)."""
    graph, cpu = OnnxGraph(path, providers=(CUDA,)), OnnxGraph(path, exact=exact)
    assert graph.provider == CUDA, f"ran on {graph.provider}"
    (found,), (expected,) = (one.run(**inputs).values() for one in (graph, cpu))
    relative = float(np.abs(found - expected).max() / np.abs(expected).max())
    took = []
    for one in (graph, cpu):
        began = time.perf_counter()
        for _ in range(RUNS):
            one.run(**inputs)
        took.append((time.perf_counter() - began) / RUNS * 1000)
    return relative, f"{relative:.2g} away from the CPU, {took[0]:.2f} ms a step (CPU {took[1]:.2f} ms)"


def step(bundle: Any) -> dict[str, Any]:
    from score_edge.runtime.sources.sample_steps import sample_steps

    return dict(next(iter(sample_steps(bundle.manifest.vision, None))))


def test_encoder(bundled: Any, record_property) -> None:
    bundle = bundled.bundle
    relative, words = compared(bundle.encoder_path, step(bundle), exact=False)
    record_property("fp32", words)
    assert relative < 1e-2  # TF32 is on by default


def test_encoder_int8(bundled: Any, quantised: Any, tmp_path: Path, record_property) -> None:
    bundle = quantised(bundled.bundle, tmp_path / "int8")
    relative, words = compared(bundle.encoder_path, step(bundle), exact=True)
    record_property("int8", words)
    assert relative < 5e-2
