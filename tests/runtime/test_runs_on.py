"""What an answer was computed on is said, and where a GPU stays idle, why."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.bundle.int8 import Int8
from score_edge.runtime import runs_on
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.runs_on import describe

MANIFEST = Bundle.open("reference", checksums=False).manifest
SKIPPED = {"tensorrt": "no engine", "cuda": "ONNX Runtime has no CUDAExecutionProvider"}
OTHER: Any = SimpleNamespace()


@pytest.fixture(scope="module")
def encoder() -> OnnxGraph:
    return OnnxGraph(Path(Bundle.open("reference").encoder_path), threads=1)


def test_on_a_pc_without_a_gpu_there_is_nothing_to_explain(encoder: OnnxGraph, monkeypatch: Any) -> None:
    monkeypatch.setattr(runs_on, "cuda_devices", lambda: "no NVIDIA driver")
    found = describe(MANIFEST, encoder, SKIPPED, OTHER)
    assert str(found) == "encoder on CPU, fp32 · language model on SimpleNamespace"
    assert found.fallbacks == {}


def test_a_gpu_that_stays_idle_is_explained(encoder: OnnxGraph, monkeypatch: Any) -> None:
    monkeypatch.setattr(runs_on, "cuda_devices", lambda: ["Orin"])
    found = describe(MANIFEST, encoder, SKIPPED, OTHER)
    assert "encoder on CPU, fp32; not the GPU: tensorrt: no engine; cuda: ONNX Runtime has no" in str(found)
    assert found.to_json()["fallbacks"]["encoder"].startswith("tensorrt: no engine")
    assert "--provider cpu" in str(describe(MANIFEST, encoder, {}, OTHER))


def test_an_engine_says_its_own_precision(monkeypatch: Any) -> None:
    monkeypatch.setattr(runs_on, "cuda_devices", lambda: ["Orin"])
    engine: Any = SimpleNamespace(provider="TensorRT 10.3.0", precision="fp16")
    found = describe(MANIFEST, engine, {}, OTHER)
    assert (found.encoder, found.precision, found.fallbacks) == ("TensorRT 10.3.0", "fp16", {})


def test_precision_of_a_graph() -> None:
    int8 = Int8("int8-cpu", "u8s8", "minmax", 2, 0, 2.0, 1.0)
    quantised = dataclasses.replace(MANIFEST, vision=dataclasses.replace(MANIFEST.vision, int8=int8))
    half = dataclasses.replace(
        MANIFEST, provenance=dataclasses.replace(MANIFEST.provenance, source="a/b, fp16, opset 18")
    )
    assert [m.encoder_precision for m in (MANIFEST, quantised, half)] == ["fp32", "int8-cpu", "fp16"]
