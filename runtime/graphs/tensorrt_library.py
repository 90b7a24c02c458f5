"""TensorRT's Python bindings: imported late, checked for their version, and with their errors kept."""

import importlib
from types import ModuleType
from typing import Any

from score_edge.errors import ScoreEdgeError

OLDEST = (8, 6)


def load_tensorrt(name: str = "tensorrt") -> ModuleType:
    """Import the bindings; nothing of them may be touched before `require_gpu`, except those of TensorRT for RTX.

    Args:
        name: ``"tensorrt"``, or ``"tensorrt_rtx"``, which builds without a GPU.

    Raises:
        ScoreEdgeError: not installed, broken, or older than 8.6.
    """
    rtx = name == "tensorrt_rtx"
    try:
        trt = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ScoreEdgeError(
            f"{name} is not installed for this Python",
            'pip install "score-edge[rtx-check]"'
            if rtx
            else "on a Jetson: sudo apt install nvidia-jetpack, and a venv made with --system-site-packages",
        ) from error
    except (ImportError, OSError) as error:  # libnvinfer is missing or of another CUDA
        raise ScoreEdgeError(
            f"{name} cannot be imported: {error}", "install TensorRT and its bindings again"
        ) from error
    # RTX counts its own versions, and is of TensorRT 11's interface from the first.
    if not rtx and version_numbers(trt.__version__)[:2] < OLDEST:
        raise ScoreEdgeError(
            f"TensorRT {trt.__version__} is older than {'.'.join(map(str, OLDEST))}",
            "update JetPack or TensorRT; ONNX Runtime works meanwhile (--provider cpu)",
        )
    return trt


def version_numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version: an engine runs on the TensorRT that agrees in all of them.

    Example:
        >>> version_numbers("10.3.0.30-1+cuda12.5")
        (10, 3, 0)
    """
    numbers = []
    for part in version.replace("-", ".").split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)


def short_version(version: str) -> str:
    """``"10.3.0.30"`` as ``"10.3.0"``."""
    return ".".join(map(str, version_numbers(version)))


def make_logger(trt: Any) -> Any:
    """A trt.ILogger whose `errors` collect what would otherwise only be printed."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()
