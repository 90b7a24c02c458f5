"""The whole build over a driver and a TensorRT that are none; ONNX Runtime computes what the "engine" does."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import REFERENCE, Bundle, write_bundle
from score_edge.bundle.user_cache import user_cache
from score_edge.doctor.bundle import check_engines
from score_edge.engines import build as building
from score_edge.engines.build import build_engines, describe_plan
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_driver import cuda_devices
from score_edge.runtime.graphs.engine_files import engines_of, find_engine, read_records
from score_edge.runtime.graphs.open_graph import open_graph
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.runs_on import describe_pipeline
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("onnx")
GPU = "Orin (sm87, 16 multiprocessors)"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    shutil.copytree(REFERENCE, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def files(bundle: Bundle) -> list[str]:
    """What is in the user's cache, folders of this bundle's engines without the hash."""
    folder, mine = user_cache("engines"), engines_of(bundle)
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(mine if path.is_relative_to(mine) else folder)) for path in found)


def contents(bundle: Bundle) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in user_cache("engines").rglob("*") if path.is_file()}


FILED = [
    "sm87x16-trt10.3.0-fp16/encoder.engine",
    "sm87x16-trt10.3.0-fp16/engine.json",
    "sm87x16-trt10.3.0-fp16/incremental.engine",
    "sm87x16-trt10.3.0-fp16/policy.engine",
    "sm87x16-trt10.3.0.timing",
]


def said(bundle: Bundle, folder: str, graph: str) -> dict:
    return json.loads((engines_of(bundle) / folder / f"{graph}.engine").read_bytes().partition(b"\n")[0])


def test_engines_are_built_compared_filed_and_taken(fake_gpu, bundle):
    phases = []
    built = build_engines(bundle, on_progress=lambda *phase: phases.append(phase))
    assert files(bundle) == FILED
    assert ("encoder: tactics", 2, 2) in phases
    encoder, incremental, policy = built.record.engines
    kinds = [(engine.graph, engine.precision) for engine in built.record.engines]
    assert kinds == [("encoder", "fp16"), ("incremental", "fp16"), ("policy", "fp32")]
    for engine in (encoder, incremental):  # really halved, and really compared
        assert 0 < engine.relative < 2e-2 and engine.cosine > 0.999
    assert policy.relative < 1e-5
    graph, passed_over = open_graph(Bundle.open(bundle.folder), "encoder")
    assert graph.provider == "TensorRT 10.3.0" and passed_over == {}
    assert said(bundle, "sm87x16-trt10.3.0-fp16", "encoder")["network"] == 0b11  # explicit batch, strongly typed
    assert said(bundle, "sm87x16-trt10.3.0-fp16", "encoder")["flags"] == []
    assert said(bundle, "sm87x16-trt10.3.0-fp16", "policy")["profile"]["tokens"] == [[1, 192], [36, 192], [4096, 192]]


def test_tensorrt_8_takes_every_graph(fake_gpu, bundle, monkeypatch):
    """Its parser reads opset 17 and makes INT32 of every INT64."""
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "8.6.1")
    monkeypatch.setattr(fake_gpu.tensorrt, "__version__", "8.6.1")
    built = build_engines(bundle, "fp32")
    assert [engine.graph for engine in built.record.engines] == ["encoder", "incremental", "policy"]
    assert all(engine.relative < 1e-5 for engine in built.record.engines)


def test_a_calibrated_encoder_becomes_an_int8_engine(fake_gpu, quantised, tmp_path):
    bundle = quantised(Bundle.open("reference"), tmp_path / "int8")
    built = build_engines(bundle)
    assert (built.folder.name, built.record.precision) == ("sm87x16-trt10.3.0-int8", "int8")
    assert 0 < built.record.engines[0].relative < 0.05
    assert said(bundle, built.folder.name, "encoder")["flags"] == []


def test_the_pipeline_runs_on_engines(fake_gpu, bundle):
    pytest.importorskip("llama_cpp")
    build_engines(bundle, "fp32")
    from score_edge.reference import world

    frames = world.make_clip(3, 0, 3).frames()
    with Pipeline(bundle, context=512) as fast, Pipeline(bundle, context=512, provider="cpu") as plain:
        assert fast.encoder.provider.startswith("TensorRT")
        assert open_graph(bundle, "policy")[0].provider.startswith("TensorRT")
        assert plain.encoder.provider == "CPUExecutionProvider"
        assert describe_pipeline(fast).encoder == "TensorRT 10.3.0" and describe_pipeline(fast).precision == "fp32"
        assert "encoder" in describe_pipeline(plain).fallbacks  # there is a GPU, and it was told not to use it
        mine, theirs = fast.encode(frames).tokens, plain.encode(frames).tokens
        assert abs(mine - theirs).max() < 1e-4
        keeps = [pipeline.select(theirs, pipeline.selector("score"), 0.25) for pipeline in (fast, plain)]
        assert (keeps[0] == keeps[1]).all()


def test_what_cells_change_in_number_is_recorded_after_a_run_of_that_number(fake_gpu, bundle):
    """NVIDIA: run once after an input shape changed, then capture."""
    build_engines(bundle, "fp32")
    graph, _ = open_graph(bundle, "incremental", "tensorrt")
    plain, _ = open_graph(bundle, "incremental", "cpu")
    vision, caches, chance = bundle.manifest.vision, (graph.start(), plain.start()), np.random.default_rng(0)
    before = fake_gpu.launches
    for step, count in enumerate((36, 1, 4, 1, 4) * 4):
        cells = chance.permutation(36)[:count]
        patches = chance.standard_normal((count, vision.merge**2, vision.patch_values), np.float32)
        found, expected = (
            each.run_cached(cache, patches=patches, cells=cells)["tokens"]
            for each, cache in zip((graph, plain), caches, strict=True)
        )
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=f"step {step}")
    assert fake_gpu.launches > before and fake_gpu.graphs == 0


def test_an_engine_that_cannot_be_recorded_runs_and_is_not_recorded_at_every_step(fake_gpu, bundle):
    build_engines(bundle, "fp32")
    graph, _ = open_graph(bundle, "incremental", "tensorrt")
    fake_gpu.refuse_graphs()
    tried = []
    record = graph._cuda.record
    graph._cuda.record = lambda work: tried.append(work) or record(work)
    vision, cache = bundle.manifest.vision, graph.start()
    for cells in ([0, 1], [2, 3]) * 4:
        patches = np.ones((2, vision.merge**2, vision.patch_values), np.float32)
        found = graph.run_cached(cache, patches=patches, cells=np.array(cells))["tokens"]
        assert found.shape == (2, vision.dim) and np.isfinite(found).all()
    assert len(tried) == 2  # one for each of the two buffers that a cache alternates between
    assert fake_gpu.graphs == 0


def test_a_dla_is_asked_for_by_flags_on_10(fake_gpu, bundle):
    build_engines(bundle, "fp16", dla=0, workspace=64)
    encoder = said(bundle, "sm87x16-trt10.3.0-fp16", "encoder")
    assert encoder["network"] == 0b01 and encoder["dla"] == 0
    assert encoder["flags"] == ["FP16", "GPU_FALLBACK"] and encoder["pools"] == {"WORKSPACE": 64 << 20}
    assert said(bundle, "sm87x16-trt10.3.0-fp16", "policy")["dla"] is None
    with pytest.raises(ScoreEdgeError, match="offers 1 DLA cores here, so there is no core 1"):
        build_engines(bundle, "fp16", dla=1)
    with pytest.raises(ScoreEdgeError, match="a DLA takes no fp32 graph"):
        build_engines(bundle, "fp32", dla=0)


def test_a_second_build_takes_the_kernel_timings_along(fake_gpu, bundle):
    build_engines(bundle, "fp16")
    timing = user_cache("engines") / "sm87x16-trt10.3.0.timing"
    assert timing.read_bytes() == b"timed " * 3
    build_engines(bundle, "fp32")
    assert timing.read_bytes() == b"timed " * 6
    assert len(read_records(bundle)) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parse", r"encoder\.onnx, fp16: TensorRT's parser refuses it: no importer for Frobnicate"),
        ("build", r"TensorRT's builder refuses it: no kernel for this"),
        ("die", r"the process of tensorrt died of signal 11"),
    ],
)
def test_a_build_that_fails_leaves_the_older_engines(fake_gpu, bundle, monkeypatch, fault, message):
    build_engines(bundle)
    before = contents(bundle)
    monkeypatch.setenv("FAKE_TENSORRT", fault)
    with pytest.raises(ScoreEdgeError, match=message):
        build_engines(bundle)
    assert contents(bundle) == before


def test_an_engine_that_computes_something_else_is_not_kept(fake_gpu, bundle, monkeypatch):
    monkeypatch.setattr(fake_gpu.tensorrt, "FAULT", "wrong")
    with pytest.raises(ScoreEdgeError, match=r"the encoder engine in fp16 is .* allowed is 0.02 .* it was not kept"):
        build_engines(bundle)
    assert files(bundle) == ["sm87x16-trt10.3.0.timing"]


def test_a_full_disk_leaves_nothing(fake_gpu, bundle, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building, "_filed", full)
    with pytest.raises(ScoreEdgeError, match=r"cannot write .*sm87x16-trt10.3.0-fp16.*No space left") as caught:
        build_engines(bundle)
    assert caught.value.hint == "free some disk space"
    assert files(bundle) == ["sm87x16-trt10.3.0.timing"]


def test_ctrl_c_ends_the_builder_and_leaves_nothing(fake_gpu, bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_TENSORRT", "hang")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "build", str(bundle.folder)]
    # The driver is found by name here: the fake is first in LD_LIBRARY_PATH.
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore it
    )
    deadline = time.monotonic() + 120
    while not (workers := builders(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert files(bundle) == []
    assert list(engines_of(bundle).iterdir()) == []


def builders(pid: int) -> list[str]:
    """Of the process's children those that build; looking for a library starts some, too."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    found = []
    for child in listed.read_text().split() if listed.exists() else ():
        with contextlib.suppress(OSError):  # it may have ended meanwhile
            if b"engines.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def test_stale_and_foreign_engines_are_never_loaded(fake_gpu, bundle, caplog):
    build_engines(bundle)
    path, record = find_engine(bundle, "encoder", GPU, "10.3.0.26")
    assert path.name == "encoder.engine" and record.precision == "fp16"
    assert "built by TensorRT 10.3.0; here is 10.7.0" in find_engine(bundle, "encoder", GPU, "10.7.0")
    assert "built on Orin (sm87, 16" in find_engine(bundle, "encoder", "Orin (sm87, 8 multiprocessors)", "10.3.0")
    import onnx

    model = onnx.load(bundle.encoder_path)
    model.doc_string = "changed"
    paths = {**bundle.paths, "encoder.onnx": model.SerializeToString()}
    changed = write_bundle(bundle.folder.parent / "changed", bundle.manifest, paths)
    assert find_engine(changed, "encoder", GPU, "10.3.0") == "no engine of this encoder was built for this user"
    shutil.copytree(engines_of(bundle), engines_of(changed))  # somebody meddles with the cache
    assert "encoder graph has changed since" in find_engine(changed, "encoder", GPU, "10.3.0")
    graph, passed_over = open_graph(changed, "encoder")
    assert graph.provider == "CPUExecutionProvider" and "has changed since" in passed_over["tensorrt"]
    assert f"score-edge build {changed.folder}" in caplog.text
    with pytest.raises(ScoreEdgeError, match="has changed since") as caught:
        open_graph(changed, "encoder", "tensorrt")
    assert caught.value.hint == f"score-edge build {changed.folder}"


def test_a_damaged_engine_is_not_loaded(fake_gpu, bundle):
    build_engines(bundle)
    path = engines_of(bundle) / FILED[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ScoreEdgeError, match="missing or damaged") as caught:
        find_engine(bundle, "encoder", GPU, "10.3.0")
    assert caught.value.hint.endswith("--precision fp16")


def test_engines_are_those_of_the_graphs_wherever_the_bundle_lies(fake_gpu, bundle, tmp_path):
    build_engines(bundle)
    assert not (bundle.folder / "engines").exists()
    again = write_bundle(tmp_path / "again", bundle.manifest, bundle.paths)
    assert files(again) == FILED


def test_an_engine_in_a_bundle_is_never_loaded(fake_gpu, bundle):
    """A bundle from elsewhere brings an engine whose record fits this machine in every point."""
    build_engines(bundle)
    shutil.move(engines_of(bundle), bundle.folder / "engines")
    graph, skipped = open_graph(bundle, "encoder")
    assert graph.provider == "CPUExecutionProvider" and "no engine" in skipped["tensorrt"]
    (check, *_) = check_engines(bundle, GPU, "10.3.0")
    assert check.status == "warn" and "is never loaded" in check.finding


def test_a_cache_that_others_may_write_is_not_trusted(fake_gpu, bundle):
    build_engines(bundle)
    folder = engines_of(bundle)
    assert folder.stat().st_mode & 0o022 == 0
    folder.chmod(0o777)
    assert "others may write here" in str(find_engine(bundle, "encoder", GPU, "10.3.0"))
    build_engines(bundle)  # makes it this user's own again
    assert not isinstance(find_engine(bundle, "encoder", GPU, "10.3.0"), str)


def test_what_is_built_last_is_taken_though_the_clock_went_back(fake_gpu, bundle):
    """A Jetson without a battery for its clock begins in the past at every start."""
    record = build_engines(bundle, "fp16").folder / "engine.json"
    document = json.loads(record.read_text())
    record.write_text(json.dumps({**document, "created": "2099-01-01T00:00:00.000000+00:00"}))
    build_engines(bundle, "fp32")
    _, found = find_engine(bundle, "encoder", GPU, "10.3.0")
    assert found.precision == "fp32"


def test_engines_are_judged_on_sixteen_steps_of_the_footage(fake_gpu, bundle, monkeypatch):
    seen = []
    real = building.compare_outputs
    monkeypatch.setattr(building, "compare_outputs", lambda *given: seen.append(given) or real(*given))
    build_engines(bundle, "fp32", video="synthetic://?seed=5&steps=20")
    assert [sum(given[0] == output for given in seen) for output in ("tokens", "keep")] == [2 * 16, 16]
    assert {given[3] for given in seen} == {"video"}
    first = Preprocessing.of(bundle.manifest.vision)
    with open_source("synthetic://?seed=5&steps=20") as source:
        frames = list(islice(source, 2))
    judged = building.steps_to_judge(bundle, "synthetic://?seed=5&steps=20")
    np.testing.assert_array_equal(judged[0]["patches"], first.prepare(frames)["patches"])
    assert len(building.steps_to_judge(bundle, "synthetic://?seed=5&steps=3")) == 16


def test_a_tensorrt_that_is_too_old(fake_gpu, bundle, monkeypatch):
    monkeypatch.setattr(fake_gpu.tensorrt, "__version__", "8.5.2.2")
    with pytest.raises(ScoreEdgeError, match=r"TensorRT 8\.5\.2\.2 is older than 8\.6") as caught:
        build_engines(bundle)
    assert "update JetPack" in caught.value.hint


def test_without_a_gpu_build_says_what_to_run_where(bundle):
    if not isinstance(cuda_devices(), str):
        pytest.skip("there is a GPU here")
    with pytest.raises(ScoreEdgeError, match="building engines needs an NVIDIA GPU") as caught:
        build_engines(bundle, "fp32")
    assert f"score-edge build {bundle.folder} --precision fp32" in caught.value.hint
    assert "--dry-run" in caught.value.hint and "--check" in caught.value.hint
    plan = describe_plan(bundle)
    assert plan["folder"] == str(engines_of(bundle) / "smXXxN-trtX.Y.Z-fp16")
    assert [(graph["graph"], graph["precision"]) for graph in plan["graphs"]] == [
        ("encoder", "fp16"),
        ("incremental", "fp16"),
        ("policy", "fp32"),
    ]
    assert "no NVIDIA driver" in plan["machine"] or "NVIDIA" in plan["machine"]


def test_the_command_shows_its_plan(bundle):
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "build", str(bundle.folder)]
    done = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["command"] == f"score-edge build {bundle.folder} --precision fp16"
    more = ["--dry-run", "--workspace", "512", "--dla", "1", "--video", "my clip.mp4"]
    done = subprocess.run([*command, *more], capture_output=True, text=True, check=True)
    built = f"build: score-edge build {bundle.folder} --precision fp16 --workspace 512 --dla 1 --video 'my clip.mp4'"
    assert built in done.stdout.splitlines()
    done = subprocess.run([*command, *more, "--precision", "fp32"], capture_output=True, text=True)
    assert done.returncode == 1 and "a DLA takes no fp32 graph" in done.stderr
    done = subprocess.run([*command, "--precision", "int8"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
