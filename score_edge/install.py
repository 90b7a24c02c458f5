"""Which command brings a missing package to this machine: a PC takes all from the index, a Jetson what JetPack has."""

from pathlib import Path

ROOT = Path("/")
OPENCV_WHEELS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
_RUNTIME = ("cv2", "onnxruntime", "llama_cpp")
_RELEASE = "etc/nv_tegra_release"


def on_jetson() -> bool:
    """Whether this is a Jetson: by NVIDIA's release file, or in a container by the device tree."""
    if (ROOT / _RELEASE).exists():
        return True
    try:
        return b"nvidia,tegra" in (ROOT / "proc/device-tree/compatible").read_bytes()
    except OSError:
        return False


def runtime_extra() -> str:
    """The extra that brings what runs a model on this kind of machine: ``jetson``, ``gpu`` or ``pc``."""
    if on_jetson():
        return "jetson"
    return "gpu" if distribution_version("onnxruntime-gpu") else "pc"  # the two ONNX Runtimes overwrite each other


def install_command(module: str, extra: str = "") -> str:
    """The command that brings a module.

    Args:
        module: name to import, for example ``"cv2"``.
        extra: of this package; empty for what runs a model, which every kind of machine gets in its own way.

    Example:
        >>> install_command("gguf", "export")
        'pip install "score-edge[export]"'
    """
    name = module.split(".")[0]
    if on_jetson() and name in ("cv2", "onnxruntime"):
        return _jetson_opencv() if name == "cv2" else _jetson_onnxruntime()
    return f'pip install "score-edge[{runtime_extra() if name in _RUNTIME or not extra else extra}]"'


def gstreamer_command() -> str:
    """The command that puts an OpenCV with GStreamer in the place of one without, or says that it must be built."""
    if not on_jetson():
        return "build OpenCV with -D WITH_GSTREAMER=ON: the wheels of the index have none"
    wheels = [name for name in OPENCV_WHEELS if distribution_version(name)]
    return f"pip uninstall -y {' '.join(wheels)} && {_jetson_opencv()}" if wheels else _jetson_opencv()


def distribution_version(distribution: str) -> str | None:
    """Of an installed distribution; None where there is none of that name."""
    from importlib import metadata  # slow to import, and the command line imports this module

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _jetson_opencv() -> str:
    return "sudo apt install python3-opencv    # and a venv made with --system-site-packages"


def _jetson_onnxruntime() -> str:
    """NVIDIA's build: the index's has no kernels for Orin."""
    try:
        newer = "R38" in (ROOT / _RELEASE).read_text()
    except OSError:
        newer = False
    wheels = "sbsa/cu130" if newer else "jp6/cu126"
    return f"pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/{wheels}"
