"""Which OpenCV is in use, what it reads videos with, and whether a CSI camera can work."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator

from score_edge.doctor.check import Check
from score_edge.doctor.software import folder_of
from score_edge.install import OPENCV_WHEELS, distribution_version, gstreamer_command, install_command, on_jetson

_SECONDS = 15


def check_opencv() -> Iterator[Check]:
    """Its version, its place and its decoders; on a Jetson CSI too."""
    wheels = [name for name in OPENCV_WHEELS if distribution_version(name)]
    if importlib.util.find_spec("cv2") is None:
        yield Check("OpenCV", "fail", "not installed", install_command("cv2"))
        return
    if len(wheels) > 1:
        fix = f"pip uninstall -y {' '.join(wheels)} && {install_command('cv2')}"
        yield Check("OpenCV", "warn", f"{' and '.join(wheels)} overwrite each other", fix)
    try:
        import cv2
    except (ImportError, AttributeError) as error:  # AttributeError: numpy 2 under a module built against numpy 1
        yield Check("OpenCV", "fail", f"cannot be imported: {error}", _mend(str(error), wheels))
        return
    has = dict(re.findall(r"^\s+(GStreamer|FFMPEG|V4L/V4L2):\s+(\w+)", cv2.getBuildInformation(), re.M | re.I))
    has = {name.upper(): value for name, value in has.items()}
    listed = ", ".join(f"{name} {has.get(name.upper(), 'NO').lower()}" for name in ("GStreamer", "FFMPEG", "V4L/V4L2"))
    origin = " and ".join(wheels) or "not pip's"
    neither = "YES" not in (has.get("FFMPEG"), has.get("GSTREAMER"))
    fix = install_command("cv2") if neither else ""
    found = f"{cv2.__version__} ({origin}) at {folder_of(cv2)}, {listed}"
    yield Check("OpenCV", "warn" if fix else "ok", f"{found}{': reads no videos' if fix else ''}", fix)
    yield _csi(has.get("GSTREAMER") == "YES")


def _mend(error: str, wheels: list[str]) -> str:
    if "numpy" in error or "_ARRAY_API" in error:
        return 'pip install "numpy<2"    # this OpenCV was built against numpy 1'
    return f"pip uninstall -y {' '.join(wheels)} && {install_command('cv2')}" if wheels else install_command("cv2")


def _csi(gstreamer: bool) -> Check:
    """A CSI camera needs NVIDIA's source element, which only a Jetson has, and an OpenCV that speaks GStreamer."""
    if not on_jetson():
        return Check("CSI cameras", "ok", "not possible: this is no Jetson")
    if not gstreamer:
        finding = "not possible: this OpenCV was built without GStreamer, which network cameras decode with too"
        return Check("CSI cameras", "warn", finding, gstreamer_command())
    if shutil.which("gst-inspect-1.0") is None:
        fix = "sudo apt install gstreamer1.0-tools"
        return Check(
            "CSI cameras", "warn", "OpenCV has GStreamer; whether GStreamer has nvarguscamerasrc is unknown", fix
        )
    inspect = ["gst-inspect-1.0", "--exists", "nvarguscamerasrc"]
    try:
        missing = subprocess.run(inspect, capture_output=True, timeout=_SECONDS).returncode
    except subprocess.TimeoutExpired:
        finding = f"GStreamer does not answer within {_SECONDS} s whether it has nvarguscamerasrc"
        return Check("CSI cameras", "warn", finding, " ".join(inspect))
    if missing:
        finding = "not possible: GStreamer has no nvarguscamerasrc"
        return Check("CSI cameras", "warn", finding, "sudo apt install nvidia-l4t-gstreamer")
    return Check("CSI cameras", "ok", "possible: OpenCV has GStreamer, and GStreamer has nvarguscamerasrc")
