"""The real machine, and files and answers of machines that are broken in one way each."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from score_edge import install
from score_edge.bundle.folder import REFERENCE, Bundle
from score_edge.doctor import bundle, machine, opencv, software
from score_edge.doctor.bundle import check_bundle, check_engines, check_int8
from score_edge.doctor.check import Check, healthy, report_block
from score_edge.doctor.doctor import examine, to_json
from score_edge.runtime.graphs.cuda_driver import Gpu
from score_edge.runtime.graphs.engine_files import Engine, EngineRecord, engine_folder, engines_of, graph_hash

GPU = "Orin (sm87, 16 multiprocessors)"
BROKEN = Check("ONNX Runtime", "fail", "not installed", "pip install onnxruntime")


def bundle_with_engine(folder: Path) -> Bundle:
    """The reference bundle with the record of an engine of its encoder."""
    shutil.copytree(REFERENCE, folder / "bundle")
    bundle = Bundle.open(folder / "bundle", checksums=False)
    engine = Engine("encoder", "0" * 64, graph_hash(bundle, "encoder"), "fp16", 0.01, 0.9999)
    target = engine_folder(bundle, Gpu("Orin", "sm87", 16), "10.3.0", "fp16")
    target.mkdir(parents=True)
    EngineRecord("10.3.0", GPU, "fp16", "2026-11-23T00:00:00", (engine,)).write(target)
    return bundle


def by_area(checks) -> dict[str, Check]:
    return {check.area: check for check in checks}


@pytest.fixture(scope="module")
def found():
    return list(examine("reference"))


def test_this_machine_is_examined(found):
    areas = by_area(found)
    assert {
        "Python",
        "machine",
        "CPU features",
        "memory",
        "disk",
        "GPU",
        "ONNX Runtime",
        "OpenCV",
        "bundle",
    } <= areas.keys()
    assert areas["provider"].finding.endswith("opens and computes") or areas["provider"].fix
    assert "CPU" in areas["llama.cpp"].finding or areas["llama.cpp"].status == "fail"
    assert areas["graphs"].status == "ok"
    assert areas["graphs"].finding == "encoder, incremental, policy, query open and have the shapes of bundle.json"


def test_whatever_is_wrong_has_a_fix(found):
    assert [check for check in found if check.status == "fail" and not check.fix] == []


def test_findings_as_json_and_as_a_block():
    checks = [Check("Python", "ok", "3.11"), BROKEN]
    plain = json.loads(json.dumps(to_json(checks)))
    assert plain["healthy"] is False and plain["checks"][1]["fix"] == "pip install onnxruntime"
    assert report_block(checks).splitlines() == [
        "```",
        "score-edge doctor",
        "✓ Python: 3.11",
        "✗ ONNX Runtime: not installed",
        "    fix: pip install onnxruntime",
        "```",
    ]
    assert healthy(checks[:1]) and not healthy(checks)


def test_a_provider_that_is_only_listed_is_found_out():
    check = software.check_provider("NoSuchExecutionProvider")
    assert check.status == "warn" and check.fix
    assert "NoSuchExecutionProvider is listed" in check.finding


def test_a_slow_power_mode_names_its_command(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1")
    status = tmp_path / "var/lib/nvpmodel/status"
    status.parent.mkdir(parents=True)
    status.write_text("pmode:0001")
    areas = by_area(machine.check_board(tmp_path))
    assert areas["JetPack"].finding == "L4T 36.4.3, JetPack 6.2"
    assert areas["power mode"].status == "warn" and "nvpmodel -m 0" in areas["power mode"].fix
    status.write_text("pmode:0000")
    assert by_area(machine.check_board(tmp_path))["power mode"].status == "ok"


def test_a_jetpack_that_is_too_old_is_said():
    check = machine.check_jetpack("35.4.1", None)
    assert check.status == "fail" and "JetPack before 6" in check.finding
    assert machine.check_jetpack("99.0.0", None).status == "ok"


def test_heat_and_little_memory_are_said(tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("tj-thermal")
    (zone / "temp").write_text("91500")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 900000 kB\n")
    areas = by_area([*machine.check_board(tmp_path), *machine.check_space(tmp_path)])
    assert areas["temperature"].status == "warn" and "92 °C" in areas["temperature"].finding
    assert areas["memory"].status == "warn" and areas["memory"].fix


def test_a_camera_that_gives_no_frames(tmp_path):
    assert by_area(machine.check_cameras(tmp_path))["cameras"].finding == "none connected"
    (tmp_path / "video0").touch()
    check = by_area(machine.check_cameras(tmp_path))["camera"]
    assert check.status == "warn" and "gives no frames" in check.finding and check.fix


@pytest.mark.parametrize(
    ("gpu", "tensorrt", "status", "finding"),
    [
        (GPU, "10.3.0.30", "ok", "built here, at most 0.01 away"),
        (GPU, "10.13.3.9", "warn", "not used: it was built by TensorRT 10.3.0; here is 10.13.3.9"),
        ("Orin (sm87, 8 multiprocessors)", "10.3.0", "warn", "not used: it was built on Orin (sm87, 16"),
        (None, "10.3.0", "warn", "no GPU"),
        (GPU, None, "warn", "not installed"),
    ],
)
def test_engines_run_only_where_they_were_built(tmp_path, gpu, tensorrt, status, finding):
    bundle = bundle_with_engine(tmp_path)
    (check,) = check_engines(bundle, gpu, tensorrt)
    assert check.status == status and finding in check.finding
    assert check.fix or status == "ok" or gpu is None


def test_a_damaged_record_of_an_engine_is_said(tmp_path):
    bundle = bundle_with_engine(tmp_path)
    next(engines_of(bundle).glob("*/engine.json")).write_text("{")
    (check,) = check_engines(bundle, GPU, "10.3.0")
    assert check.status == "warn" and "engine.json cannot be read" in check.finding


def test_what_runs_the_encoder_and_why_nothing_better_does(found):
    assert by_area(found)["encoder"].finding.startswith("runs on ")
    if "GPU" in by_area(found) and "no NVIDIA driver" in by_area(found)["GPU"].finding:
        assert "not tensorrt: TensorRT needs an NVIDIA GPU" in by_area(found)["encoder"].finding


BUILD = """
  Video I/O:
    FFMPEG:                      {ffmpeg}
    GStreamer:                   {gstreamer} (1.20.3)
    v4l/v4l2:                    YES (linux/videodev2.h)
"""


@pytest.fixture
def jetson(tmp_path, monkeypatch):
    """A Jetson whose OpenCV is what `cv2(source)` says, and whose GStreamer has what `elements` names."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1")
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(opencv, "distribution_version", lambda name: None)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def cv2(source: str) -> None:
        (tmp_path / "dist-packages" / "cv2").mkdir(parents=True)
        (tmp_path / "dist-packages" / "cv2" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / "dist-packages")
        monkeypatch.delitem(sys.modules, "cv2", raising=False)

    def elements(*names: str) -> None:
        inspect = tmp_path / "bin" / "gst-inspect-1.0"
        known = "|".join(names) or "none"
        inspect.write_text(f'#!/bin/sh\ncase "$2" in {known}) exit 0;; esac\nexit 1\n')
        inspect.chmod(0o755)

    yield SimpleNamespace(cv2=cv2, elements=elements)
    sys.modules.pop("cv2", None)


@pytest.mark.parametrize(
    ("gstreamer", "elements", "status", "finding", "fix"),
    [
        ("YES", ["nvarguscamerasrc"], "ok", "possible: OpenCV has GStreamer", ""),
        ("YES", [], "warn", "no nvarguscamerasrc", "sudo apt install nvidia-l4t-gstreamer"),
        ("YES", None, "warn", "unknown", "sudo apt install gstreamer1.0-tools"),
        ("NO", ["nvarguscamerasrc"], "warn", "built without GStreamer", "sudo apt install python3-opencv"),
    ],
)
def test_whether_a_csi_camera_can_work(jetson, gstreamer, elements, status, finding, fix):
    build = BUILD.format(ffmpeg="YES", gstreamer=gstreamer)
    jetson.cv2(f"__version__ = '4.8.0'\ngetBuildInformation = lambda: {build!r}")
    if elements is not None:
        jetson.elements(*elements)
    areas = by_area(opencv.check_opencv())
    assert areas["OpenCV"].status == "ok"
    assert (
        areas["OpenCV"].finding.startswith("4.8.0 (not pip's) at ") and "dist-packages/cv2" in areas["OpenCV"].finding
    )
    assert f"GStreamer {gstreamer.lower()}, FFMPEG yes, V4L/V4L2 yes" in areas["OpenCV"].finding
    csi = areas["CSI cameras"]
    assert csi.status == status and finding in csi.finding and fix in csi.fix and bool(fix) == bool(csi.fix)


def test_programs_that_hang_are_findings(jetson, monkeypatch):
    """GStreamer looks through all its plugins when it is asked for the first time; so may a GPU's provider."""
    jetson.cv2(f"__version__ = '4.8.0'\ngetBuildInformation = lambda: {BUILD.format(ffmpeg='YES', gstreamer='YES')!r}")
    jetson.elements()
    (Path(os.environ["PATH"]) / "gst-inspect-1.0").write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    monkeypatch.setattr(opencv, "_SECONDS", 0.1)
    csi = by_area(opencv.check_opencv())["CSI cameras"]
    assert csi.status == "warn" and "does not answer within 0.1 s" in csi.finding and csi.fix
    monkeypatch.setattr(bundle, "_SECONDS", 0.01)
    check = bundle.check_bundle_provider("reference")
    assert check.status == "fail" and "does not open within 0.01 s" in check.finding and check.fix


def test_an_opencv_built_against_numpy_1(jetson):
    jetson.cv2("raise AttributeError('_ARRAY_API not found')")
    (check,) = opencv.check_opencv()
    assert check.status == "fail" and check.fix.startswith('pip install "numpy<2"')


def test_without_opencv_and_onnxruntime(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("cv2", "onnxruntime") else find(name)
    )
    for (check,), module in ((opencv.check_opencv(), "cv2"), (software.check_onnxruntime(), "onnxruntime")):
        assert check.status == "fail" and check.fix == install.install_command(module)
    (check,) = machine.check_cameras(Path("/dev/null").parent / "nowhere")
    assert check.finding == "none connected"


def test_which_onnxruntime_is_in_use(found, monkeypatch):
    assert " at " in by_area(found)["ONNX Runtime"].finding
    monkeypatch.setattr(software, "distribution_version", lambda name: "1.22.0")
    first = next(software.check_onnxruntime())
    assert first.status == "fail" and first.fix.startswith(
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install"
    )


def test_int8_for_tensorrt_on_a_cpu_that_overflows(quantised, tmp_path):
    pytest.importorskip("onnx")
    reference = Bundle.open("reference")
    for_tensorrt, for_cpus = (quantised(reference, tmp_path / name, name) for name in ("s8s8", "u8s8"))
    (check,) = check_int8(for_tensorrt, ["avx2"])
    assert check.status == "warn" and "overflows" in check.finding and "--form int8-cpu" in check.fix
    for features in (["avx2", "avx512_vnni"], ["asimddp"]):
        assert list(check_int8(for_tensorrt, features)) == []
    assert list(check_int8(for_cpus, ["avx2"])) == list(check_int8(reference, ["avx2"])) == []


def test_a_bundle_that_is_none():
    (check,) = check_bundle("nowhere")
    assert check.status == "fail" and "nowhere is not a bundle" in check.finding


def test_a_llama_cpp_that_does_not_load(monkeypatch):
    from score_edge.runtime.language import llama_library

    monkeypatch.setattr(llama_library, "library", lambda: (_ for _ in ()).throw(OSError("wrong ELF class")))
    (check,) = software.check_llama()
    assert check.status == "fail" and "wrong ELF class" in check.finding and "CMAKE_ARGS" in check.fix


def test_a_build_without_the_gpu_is_said(monkeypatch):
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr(software, "cuda_devices", lambda: ["Orin (sm 8.7)"])
    areas = by_area(software.check_llama())
    if "CUDA" not in areas["llama.cpp"].finding:
        assert areas["llama.cpp GPU"].status == "warn" and "GGML_CUDA=on" in areas["llama.cpp GPU"].fix


def test_what_never_ran_on_hardware_is_said(monkeypatch):
    from score_edge.runtime.language import tensorrt_llm

    monkeypatch.setattr(tensorrt_llm, "installed_version", lambda: "1.2.1")
    (check,) = software.check_tensorrt_llm()
    assert check.status == "warn" and "never run on hardware" in check.finding
    assert "no incremental prefill" in check.finding
    monkeypatch.setattr(tensorrt_llm, "installed_version", lambda: "0.12.0")
    (check,) = software.check_tensorrt_llm()
    assert "0.16 to 1.2" in check.finding and check.fix


def test_the_command(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from score_edge.cli import main; main()", "doctor", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    done = run("--json")
    plain = json.loads(done.stdout)
    assert done.returncode == (0 if plain["healthy"] else 1)
    done = run(str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "✗ bundle" in done.stdout and "```" in done.stderr
