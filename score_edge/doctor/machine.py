"""The machine: Python, board, CPU, GPU, power mode, memory, disk, sensors, cameras."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import score_edge
from score_edge.bundle.provenance import git_commit
from score_edge.doctor.check import Check
from score_edge.install import install_command
from score_edge.profiling.board import ROOT, Board, cpu_features, memory_bytes, temperatures
from score_edge.profiling.llm_shapes import cache_folder
from score_edge.profiling.meters import open_meters
from score_edge.runtime.graphs.cuda_driver import cuda_devices

_GIB = 1 << 30
_LITTLE_MEMORY, _LITTLE_DISK = 2 * _GIB, 4 * _GIB
_CAMERA_SECONDS = 15
_OPEN_CAMERA = """
import sys, cv2
setter = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
setter(0)
camera = cv2.VideoCapture(sys.argv[1])
good, image = camera.read()
sys.exit(0 if good else 3)
"""


def check_python() -> Iterator[Check]:
    """The interpreter and this package."""
    found = f"{sys.version.split()[0]} at {sys.executable}"
    old = sys.version_info < (3, 10)
    fix = "sudo apt install python3.10 python3.10-venv" if old else ""
    yield Check("Python", "fail" if old else "ok", found, fix)
    commit = git_commit()
    yield Check("score-edge", "ok", f"{score_edge.__version__}{f' at {commit[:12]}' if commit else ''}")


def check_board(root: Path = ROOT) -> Iterator[Check]:
    """What it is, its JetPack, its power mode and clocks, its heat."""
    board = Board.read(root)
    yield Check("machine", "ok", f"{board.model}, {board.machine}, {board.cpus} CPUs for this process")
    if board.l4t:
        yield check_jetpack(board.l4t, board.jetpack)
        yield _power_mode(board.power_mode)
    if board.governor and board.governor not in ("performance", "schedutil"):
        fix = "sudo jetson_clocks" if board.l4t else "sudo cpupower frequency-set -g performance"
        yield Check("CPU governor", "warn", f"{board.governor}: clocks follow the load late, latency varies", fix)
    features = cpu_features(root)
    yield Check("CPU features", "ok" if features else "warn", " ".join(features) or "none of those that speed up LLMs")
    if heat := temperatures(root):
        zone, celsius = max(heat.items(), key=lambda item: item[1])
        hot = celsius > 85
        fix = "sudo jetson_clocks --fan" if board.l4t and hot else ""
        yield Check("temperature", "warn" if hot else "ok", f"{zone} {celsius:.0f} °C is the hottest", fix)


def check_jetpack(l4t: str, jetpack: str | None) -> Check:
    """JetPack 6 is the oldest that works: those before come with Python 3.8."""
    if int(l4t.split(".")[0]) < 36:
        found = f"L4T {l4t} is of a JetPack before 6, whose Python 3.8 and TensorRT 8.5 are too old"
        return Check(
            "JetPack", "fail", found, "flash JetPack 6 or later: https://developer.nvidia.com/embedded/jetpack"
        )
    named = f"JetPack {jetpack}" if jetpack else "a JetPack unknown to this version"
    return Check("JetPack", "ok", f"L4T {l4t}, {named}")


def _power_mode(mode: str | None) -> Check:
    if mode is None:
        return Check("power mode", "warn", "nvpmodel does not answer", "sudo nvpmodel -q")
    if mode == "0" or mode.upper().startswith("MAXN"):
        return Check("power mode", "ok", mode)
    return Check("power mode", "warn", f"{mode}: not the fastest", "sudo nvpmodel -m 0 && sudo jetson_clocks")


def check_gpu() -> Iterator[Check]:
    """The NVIDIA driver, asked through its C library: no package is needed and nothing can crash."""
    found = cuda_devices()
    if isinstance(found, str):
        broken = Path("/dev/nvidia0").exists() or Path("/dev/nvhost-gpu").exists()
        fix = "sudo dmesg | grep -iE 'nvrm|nvgpu'    # says why" if broken else ""
        yield Check("GPU", "fail" if broken else "ok", f"{found}: everything runs on the CPU", fix)
        return
    yield Check("GPU", "ok", ", ".join(found))
    if toolkit := _toolkit():
        yield Check("CUDA", "ok", toolkit)
    else:
        fix = "sudo apt install nvidia-cuda-toolkit    # on a Jetson: nvidia-jetpack"
        yield Check("CUDA", "warn", "no toolkit: llama.cpp cannot be built for the GPU", fix)


def _toolkit() -> str:
    compiler = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"release (\S+?),", said)
    return f"toolkit {found.group(1)} at {compiler}" if found else ""


def check_space(root: Path = ROOT) -> Iterator[Check]:
    """Memory and disk that are left."""
    if memory := memory_bytes(root):
        available, total = memory
        little = available < _LITTLE_MEMORY
        fix = "sudo systemctl isolate multi-user.target    # stops the desktop" if little else ""
        text = f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB available"
        yield Check("memory", "warn" if little else "ok", text, fix)
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    little = free < _LITTLE_DISK
    fix = f"du -xh {folder} | sort -h | tail    # what takes the space" if little else ""
    yield Check("disk", "warn" if little else "ok", f"{free / _GIB:.1f} GiB free at {folder}", fix)


def check_sensors() -> Iterator[Check]:
    """Whether energy can be measured."""
    meters = open_meters()
    named = ", ".join(f"{meter.name} ({meter.covers})" for meter in meters)
    for meter in meters:
        meter.close()
    if meters:
        yield Check("power sensors", "ok", named)
        return
    hidden = list(Path("/sys/class/powercap").glob("intel-rapl:*/energy_uj"))
    if hidden and not os.access(hidden[0], os.R_OK):
        fix = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
        yield Check("power sensors", "warn", "RAPL is there, but only root may read it", fix)
    else:
        yield Check("power sensors", "ok", "none: profile reports energy as not available")


def check_cameras(devices: Path = Path("/dev")) -> Iterator[Check]:
    """Every video device, opened in a process of its own because a broken driver may hang."""
    cameras = sorted(devices.glob("video*"), key=lambda path: (len(path.name), path.name))
    if not cameras:
        yield Check("cameras", "ok", "none connected")
    if cameras and importlib.util.find_spec("cv2") is None:
        yield Check("cameras", "warn", f"{len(cameras)} connected, and no OpenCV to open them", install_command("cv2"))
        return
    for path in cameras:
        command = [sys.executable, "-c", _OPEN_CAMERA, str(path)]
        try:
            opened = subprocess.run(command, capture_output=True, timeout=_CAMERA_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            yield Check("camera", "warn", f"{path} hangs", f"v4l2-ctl --device {path} --all")
            continue
        if opened:
            yield Check("camera", "ok", f"{path} gives frames")
        elif os.access(path, os.R_OK | os.W_OK):
            finding = f"{path} gives no frames: in use, or not the capture node of its camera"
            yield Check("camera", "warn", finding, f"v4l2-ctl --device {path} --all")
        else:
            yield Check("camera", "warn", f"{path} may not be opened", "sudo usermod -aG video $USER    # log in again")
