"""llama.cpp built with CUDA, at retention 1 and 0.1, beside the same on the CPU: tools/on_gpu.sh."""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.profiling.profiler import Subject, run_profile
from score_edge.profiling.run import ProfilePlan
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import sample_clip

SHAPE = "qwen2.5-0.5b"
RETENTIONS = (1.0, 0.1)
# Of the largest logit: cuBLAS adds up FP16 products in FP16, the CPU in FP32.
TOLERANCE = 0.05
CPU_SECONDS = 90
pytestmark = pytest.mark.usefixtures("gpu", "llama_on_gpu")


@pytest.fixture(scope="session")
def llama_on_gpu() -> None:
    llama = pytest.importorskip("llama_cpp.llama_cpp", exc_type=ImportError)
    if not llama.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp was built without CUDA, or sees no GPU")


@pytest.fixture(scope="session")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """What one_device.py finds on the GPU or on the CPU."""

    def run(device: str, *arguments: Any, seconds: float = 120) -> dict[str, Any]:
        out = tmp_path_factory.mktemp(device) / "found.npz"
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}
        command = [sys.executable, Path(__file__).with_name("one_device.py"), *map(str, arguments), out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(out) as found:
            return dict(found)

    return run


@pytest.fixture(scope="session")
def answers(on_device: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """On the GPU and on the CPU, about the same tokens."""
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    with Pipeline(Bundle.open("reference")) as pipeline:
        clip = pipeline.encode(sample_clip("synthetic://?seed=5&steps=16", fps=4, max_frames=32))
    np.save(path, clip.tokens)
    return on_device("gpu", "answers", path), on_device("cpu", "answers", path)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 GB with random weights: as fast as the model of that shape."""
    pytest.importorskip("gguf")
    from score_edge.profiling.llm_shapes import llm_shape, shaped_gguf

    return shaped_gguf(llm_shape(SHAPE), tmp_path_factory.mktemp("shapes"))


def on_gpu(log: str) -> str:
    """What llama.cpp said about where things are, in words; fails where a layer or its KV cache is not on the GPU."""
    found = re.search(r"offloaded (\d+)/(\d+) layers to GPU", log)
    assert found, log[-2000:]
    assert found[1] == found[2]
    caches = re.findall(r"(\S+) KV buffer size", log)
    assert caches and all(name.startswith("CUDA") for name in caches)
    # An operation that CUDA lacks would cut the graph in every layer.
    splits = re.search(r"splits = (\d+)(?: / (\d+))?", log)
    assert splits and max(int(count) for count in splits.groups() if count) < int(found[2])
    flash = re.search(r"Flash Attention (enabled|not supported)", log)
    return (
        f"{found[0]}, KV cache on {', '.join(sorted(set(caches)))}, {splits[0]}, flash attention {flash and flash[1]}"
    )


def test_every_layer_is_on_the_gpu(answers: Any, record_property) -> None:
    gpu, cpu = answers
    record_property("llama.cpp", on_gpu(str(gpu["log"])))
    assert "layers to GPU" not in str(cpu["log"]) or "offloaded 0/" in str(cpu["log"])


@pytest.mark.parametrize("retention", RETENTIONS)
def test_answers_are_those_of_the_cpu(retention: float, answers: Any, record_property) -> None:
    gpu, cpu = answers
    largest, texts = 0.0, []
    for i in range(2):
        found, expected = (device[f"logits {retention} {i}"] for device in answers)
        difference, best = np.abs(found - expected).max(), np.sort(expected)
        largest = max(largest, float(difference / np.abs(expected).max()))
        texts.append(str(gpu[f"text {retention} {i}"]))
        if best[-1] - best[-2] > 2 * difference:
            assert found.argmax() == expected.argmax()
        texts[-1] += " (the same)" if texts[-1] == str(cpu[f"text {retention} {i}"]) else " (another one)"
    record_property("logits", f"{largest:.2g} of the largest away from the CPU; {'; '.join(texts)}")
    assert largest < TOLERANCE


@pytest.mark.parametrize("retention", RETENTIONS)
def test_a_video_that_is_asked_again_is_as_fresh(retention: float, answers: Any, record_property) -> None:
    again, fresh = answers[0][f"logits {retention} 1"], answers[0][f"fresh {retention}"]
    difference = float(np.abs(again - fresh).max() / np.abs(fresh).max())
    record_property("reuse", "bit by bit" if np.array_equal(again, fresh) else f"{difference:.2g} of the largest away")
    assert difference < 1e-2


@pytest.mark.parametrize("rows", [4096, 410])
def test_prefill_beside_the_cpu(rows: int, on_device: Any, model_file: Path, record_property) -> None:
    gpu = on_device("gpu", "speed", model_file, rows)
    words = [on_gpu(str(gpu["log"]))]
    medians = [statistics.median(gpu["prefill"])]
    words.append(f"{rows / medians[0]:.0f} tokens/s, a token more {statistics.median(gpu['token']) * 1000:.2f} ms")
    try:
        cpu = on_device("cpu", "speed", model_file, 410, seconds=CPU_SECONDS) if rows == 410 else None
    except subprocess.TimeoutExpired:
        cpu = None
        words.append(f"the CPU was not done after {CPU_SECONDS} s")
    if cpu:
        medians.append(statistics.median(cpu["prefill"]))
        words.append(f"on the CPU {rows / medians[1]:.0f} and {statistics.median(cpu['token']) * 1000:.2f} ms")
        words.append(f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} CPUs")
    record_property("speed", "; ".join(words[1:] + words[:1]))
    assert medians == sorted(medians)


@pytest.mark.parametrize("shape", [None, SHAPE])
def test_speed(shape: str | None, record_property, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if shape:
        pytest.importorskip("gguf")
    plan = ProfilePlan(retentions=RETENTIONS, runs=3)
    report = run_profile(Subject("reference", llm_shape=shape, visual_tokens=4096), plan).report
    pruned = next(variant for variant in report.variants if variant.retention < 1)
    speedup = report.speedup(pruned, "prefill")
    record_property("speed", f"prefill {speedup:.1f}x faster at 10 %" if speedup else "no speed-up to tell")
    assert speedup and speedup > 1
