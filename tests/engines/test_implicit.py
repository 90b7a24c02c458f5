"""INT8 by TensorRT's own calibration, over the stand-ins: which steps it sees, what is kept, when it is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import REFERENCE, Bundle
from score_edge.bundle.user_cache import user_cache
from score_edge.calibration.frames import choose_steps, group_steps, read_clips
from score_edge.engines.build import build_engines, describe_plan
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.engine_files import calibration_cache, engines_of, find_engine, read_records
from score_edge.runtime.preprocess import Preprocessing

pytest.importorskip("onnx")
FOOTAGE = "synthetic://?seed=5&steps=32"
GPU = "Orin (sm87, 16 multiprocessors)"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    shutil.copytree(REFERENCE, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def said(bundle: Bundle, graph: str = "encoder") -> dict:
    path = engines_of(bundle) / "sm87x16-trt10.3.0-int8" / f"{graph}.engine"
    return json.loads(path.read_bytes().partition(b"\n")[0])


def test_tensorrt_sees_the_steps_that_calibrate_would_choose(fake_gpu, bundle):
    built = build_engines(bundle, implicit=True, video=FOOTAGE)
    vision = bundle.manifest.vision
    preprocessing = Preprocessing.of(vision)
    chosen = choose_steps(group_steps(clip, preprocessing) for clip in read_clips([FOOTAGE], vision.fps)).calibration
    means = [preprocessing.encoder_input(pixels)["patches"].mean() for pixels in chosen]
    assert len(means) > 8
    np.testing.assert_allclose(said(bundle)["calibrated"], means, atol=1e-6)
    assert said(bundle)["flags"] == ["INT8", "FP16"] and said(bundle)["network"] == 0b01  # weakly typed
    assert (built.record.precision, built.record.implicit) == ("int8", True)
    names = {path.name for path in user_cache("engines").rglob("*") if path.is_file()}
    cache = calibration_cache(bundle, "10.3.0")
    assert names - {"policy.engine"} == {"encoder.engine", "engine.json", "sm87x16-trt10.3.0.timing", cache.name}


def test_a_later_build_takes_the_ranges_along_and_new_footage_finds_new_ones(fake_gpu, bundle):
    build_engines(bundle, implicit=True, video=FOOTAGE)
    first = said(bundle)["calibrated"]
    build_engines(bundle, implicit=True)
    assert said(bundle)["calibrated"] == first
    build_engines(bundle, implicit=True, video="synthetic://?seed=6&steps=24")
    assert said(bundle)["calibrated"] != first


def test_a_dla_takes_it(fake_gpu, bundle):
    build_engines(bundle, implicit=True, video=FOOTAGE, dla=0)
    assert said(bundle)["dla"] == 0 and said(bundle)["flags"] == ["INT8", "FP16", "GPU_FALLBACK"]


def test_tensorrt_11_refuses_before_a_frame_is_read(fake_gpu, bundle, monkeypatch):
    monkeypatch.delattr(fake_gpu.tensorrt, "IInt8EntropyCalibrator2")
    monkeypatch.setattr(fake_gpu.tensorrt, "__version__", "11.4.0")
    with pytest.raises(ScoreEdgeError, match=r"TensorRT 11\.4\.0 calibrates no more") as caught:
        build_engines(bundle, implicit=True, video="nowhere.mp4")
    assert "score-edge calibrate" in caught.value.hint


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (None, "finds the ranges of INT8 on footage, and there are none"),
        ("nowhere.mp4", "nowhere.mp4 does not exist"),
        ("synthetic://?steps=4", "10 are needed"),
    ],
)
def test_footage_that_cannot_calibrate_leaves_nothing(fake_gpu, bundle, video, message):
    with pytest.raises(ScoreEdgeError, match=message):
        build_engines(bundle, implicit=True, video=video)
    assert list(engines_of(bundle).iterdir()) == []


def test_a_quantised_graph_needs_none(quantised, tmp_path):
    bundle = quantised(Bundle.open("reference"), tmp_path / "int8")
    with pytest.raises(ScoreEdgeError, match="is int8, TensorRT's own calibration starts from fp32") as caught:
        describe_plan(bundle, implicit=True)
    assert caught.value.hint == "leave --implicit out"


def test_a_stale_engine_is_built_anew_the_same_way(fake_gpu, bundle):
    build_engines(bundle, implicit=True, video=FOOTAGE)
    (record,) = read_records(bundle).values()
    engine = engines_of(bundle) / "sm87x16-trt10.3.0-int8" / "encoder.engine"
    engine.write_bytes(b"damaged")
    with pytest.raises(ScoreEdgeError, match="missing or damaged") as caught:
        find_engine(bundle, "encoder", GPU, record.tensorrt)
    assert caught.value.hint == f"score-edge build {bundle.folder} --implicit --video FOOTAGE"


def test_the_command_shows_its_plan(bundle):
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "build", str(bundle.folder)]
    done = subprocess.run([*command, "--implicit", "--dry-run", "--json"], capture_output=True, text=True, check=True)
    plan = json.loads(done.stdout)
    assert plan["graphs"][0]["precision"] == "int8" and plan["command"].endswith("--implicit --video FOOTAGE")
    plan = describe_plan(bundle, implicit=True, video="site.mp4", dla=0)
    assert plan["command"].endswith("--implicit --video site.mp4 --dla 0")
    for option in (["--check"], ["--precision", "fp16"]):
        done = subprocess.run([*command, "--implicit", *option], capture_output=True, text=True)
        assert done.returncode == 2 and "up to 10" in done.stderr
