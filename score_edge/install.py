"""Which command brings a missing package to this machine: a PC takes all from the index, a Jetson what JetPack has."""

from importlib import metadata
from pathlib import Path

ROOT = Path("/")
OPENCV_WHEELS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
_RUNTIME = ("cv2", "onnxruntime", "llama_cpp")
# The index's cv2 has no GStreamer and its onnxruntime-gpu no kernels for Orin.
_JETSON = {
    "cv2": "sudo apt install python3-opencv    # seen from a venv made with --system-site-packages",
    "onnxruntime": "pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126"
    "    # JetPack 7: sbsa/cu130",
}


def on_jetson(root: Path = ROOT) -> bool:
    """Whether this is a Jetson: by NVIDIA's release file, or in a container by the device tree."""
    if (root / "etc/nv_tegra_release").exists():
        return True
    try:
        return b"nvidia,tegra" in (root / "proc/device-tree/compatible").read_bytes()
    except OSError:
        return False


def runtime_extra() -> str:
    """The extra that brings what runs a model on this kind of machine: ``jetson``, ``gpu`` or ``pc``."""
    if on_jetson(ROOT):
        return "jetson"
    return "gpu" if version("onnxruntime-gpu") else "pc"  # the two ONNX Runtimes overwrite each other


def command(module: str, extra: str = "") -> str:
    """The command that brings a module.

    Args:
        module: name to import, for example ``"cv2"``.
        extra: of this package; empty for what runs a model, which every kind of machine gets in its own way.

    Example:
        >>> command("gguf", "export")
        'pip install "score-edge[export]"'
    """
    name = module.split(".")[0]
    if on_jetson(ROOT) and name in _JETSON:
        return _JETSON[name]
    return f'pip install "score-edge[{runtime_extra() if name in _RUNTIME or not extra else extra}]"'


def gstreamer_command() -> str:
    """The command that puts an OpenCV with GStreamer in the place of one without, or says that it must be built."""
    if not on_jetson(ROOT):
        return "build OpenCV with -D WITH_GSTREAMER=ON: the wheels of the index have none"
    wheels = [name for name in OPENCV_WHEELS if version(name)]
    return f"pip uninstall -y {' '.join(wheels)} && {_JETSON['cv2']}" if wheels else _JETSON["cv2"]


def version(distribution: str) -> str | None:
    """Of an installed distribution; None where there is none of that name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
