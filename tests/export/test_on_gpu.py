"""Every family's encoder on ONNX Runtime's CUDA provider, in FP32 and as Q/DQ, beside the CPU: tools/on_gpu.sh."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef
from score_edge.families import ROWS
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

CUDA = "CUDAExecutionProvider"
RUNS = 20
# Bundles that were exported where torch and transformers are; without them they are exported here.
PREPARED = os.environ.get("SCORE_EDGE_BUNDLES")
FAMILIES = tuple(row.case for row in ROWS)
needs_gpu = pytest.mark.usefixtures("gpu", "cuda_provider")


@pytest.fixture(scope="session")
def cuda_provider(gpu: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} has no {CUDA}: onnxruntime-gpu is not installed")


@pytest.fixture(scope="session", params=FAMILIES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """A small random one of every family, encoder and all."""
    if PREPARED and Path(PREPARED, request.param).is_dir():
        return Bundle.open(Path(PREPARED, request.param))
    for module in ("torch", "transformers"):
        pytest.importorskip(module)
    case = request.getfixturevalue(f"{request.param}_case")
    case.model.eval()
    found: Bundle = request.getfixturevalue("export_case")(case).bundle
    return found


@pytest.mark.skipif(not PREPARED, reason="tools/on_gpu.sh --prepare says where to")
def test_prepare(bundle: Bundle, request: pytest.FixtureRequest) -> None:
    """Keeps the bundle, its GGUF inside, so that it can travel."""
    folder, language = Path(str(PREPARED), request.node.callspec.params["bundle"]), bundle.manifest.language
    if not folder.is_dir():
        inside = dataclasses.replace(language, gguf=FileRef("llm.gguf"), path=None)
        manifest = dataclasses.replace(bundle.manifest, language=inside)
        write_bundle(folder, manifest, {**bundle.paths, "llm.gguf": bundle.gguf_path})
    assert Bundle.open(folder).gguf_path.parent == folder


def test_every_family_is_here(families: tuple[str, ...]) -> None:
    assert sorted(families) == sorted(FAMILIES)


def compared(path: Path, inputs: dict[str, Any], simulate: bool) -> tuple[float, str]:
    """(largest difference over largest value, words)."""
    graph, cpu = OnnxGraph(path, providers=(CUDA,)), OnnxGraph(path, simulate=simulate)
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


def step(bundle: Bundle) -> dict[str, Any]:
    from score_edge.runtime.sources.sample_steps import sample_steps

    return dict(next(iter(sample_steps(bundle.manifest.vision, None))))


@needs_gpu
def test_encoder(bundle: Bundle, record_property) -> None:
    relative, words = compared(bundle.encoder_path, step(bundle), simulate=False)
    record_property("fp32", words)
    assert relative < 1e-2  # TF32 is on by default


@needs_gpu
def test_encoder_int8(bundle: Bundle, quantised: Any, tmp_path: Path, record_property) -> None:
    pytest.importorskip("onnx")
    made = quantised(bundle, tmp_path / "int8")
    relative, words = compared(made.encoder_path, step(made), simulate=True)
    record_property("int8", words)
    assert relative < 5e-2
