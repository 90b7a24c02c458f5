"""llama.cpp built with CUDA, at retention 1 and 0.1: tools/on_gpu.sh."""

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.profiling.profiler import Subject, run_profile
from score_edge.profiling.run import ProfilePlan
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import sample_clip

pytestmark = pytest.mark.usefixtures("gpu", "llama_on_gpu")


@pytest.fixture(scope="session")
def llama_on_gpu() -> None:
    llama = pytest.importorskip("llama_cpp.llama_cpp")
    if not llama.llama_supports_gpu_offload():
        pytest.skip("this llama.cpp was built without CUDA")


@pytest.mark.parametrize("retention", [1.0, 0.1])
def test_answers(retention: float, record_property) -> None:
    with Pipeline(Bundle.open("reference")) as pipeline:
        clip = pipeline.encode(sample_clip("synthetic://?seed=5&steps=16", fps=4, max_frames=32))
        pipeline.watch(clip.tokens, pipeline.select(clip.tokens, pipeline.selector("score"), retention=retention))
        answer = "".join(pipeline.ask("how many things moved fast?"))
    record_property("answer", answer)
    assert answer.strip()


@pytest.mark.parametrize("shape", [None, "qwen2.5-0.5b"])
def test_speed(shape: str | None, record_property, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if shape:
        pytest.importorskip("gguf")
    plan = ProfilePlan(retentions=(1.0, 0.1), runs=3)
    report = run_profile(Subject("reference", llm_shape=shape, visual_tokens=4096), plan).report
    pruned = next(variant for variant in report.variants if variant.retention < 1)
    speedup = report.speedup(pruned, "prefill")
    record_property("speed", f"prefill {speedup:.1f}x faster at 10 %" if speedup else "no speed-up to tell")
    assert speedup and speedup > 1
