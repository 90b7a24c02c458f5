"""Which NVIDIA GPUs there are, asked through the driver's C library: no package is needed, and nothing can crash.

TensorRT and TensorRT-LLM may end the process when they are touched without a driver, so ask here first.
"""

import ctypes
from dataclasses import dataclass

from score_edge.errors import ScoreEdgeError

LIBRARY = "libcuda.so.1"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_PROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


@dataclass(frozen=True, slots=True)
class Gpu:
    """What an engine is built for.

    Attributes:
        name: as the driver calls it; every Orin is "Orin", whatever the board.
        architecture: for example "sm87".
        processors: streaming multiprocessors, which tell an Orin Nano from an AGX Orin.
    """

    name: str
    architecture: str
    processors: int

    @property
    def slug(self) -> str:
        """For file names: ``"sm87x16"``."""
        return f"{self.architecture}x{self.processors}"

    def __str__(self) -> str:
        return f"{self.name} ({self.architecture}, {self.processors} multiprocessors)"


def cuda_devices() -> list[str] | str:
    """Names of the GPUs with their compute capability and the driver's CUDA version, or why there are none."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return "no NVIDIA driver"
    if code := cuda.cuInit(0):
        return f"the NVIDIA driver does not start, CUDA error {code}"
    count, version = ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver has no GPU"
    cuda.cuDriverGetVersion(ctypes.byref(version))
    names = []
    for i in range(count.value):
        name, capability, _ = _device(cuda, i)
        driver = f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        names.append(f"{name} (sm {'.'.join(map(str, capability))}, {driver})")
    return names


def require_gpu(what: str) -> Gpu:
    """The first NVIDIA GPU that answers, which is the one that TensorRT takes.

    Args:
        what: needs it, for the message.

    Raises:
        ScoreEdgeError: there is none.
    """
    found = cuda_devices()
    if isinstance(found, str):
        raise ScoreEdgeError(f"{what} needs an NVIDIA GPU: {found}", "run it on the board; `score-edge doctor` looks")
    name, capability, processors = _device(ctypes.CDLL(LIBRARY), 0)
    return Gpu(name, f"sm{capability[0]}{capability[1]}", processors)


def _device(cuda: ctypes.CDLL, index: int) -> tuple[str, tuple[int, int], int]:
    """Name, compute capability and number of multiprocessors."""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    numbers = []
    for attribute in (*_CAPABILITY, _PROCESSORS):
        number = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    return name.value.decode("utf-8", "replace"), (numbers[0], numbers[1]), numbers[2]
