"""Which NVIDIA GPUs there are, asked through the driver's C library: no package is needed, and nothing can crash.

TensorRT and TensorRT-LLM may end the process when they are touched without a driver, so ask here first.
"""

import ctypes

from score_edge.errors import ScoreEdgeError

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


def cuda_devices() -> list[str] | str:
    """Names of the GPUs with their compute capability and the driver's CUDA version, or why there are none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
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
        device, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(128), (ctypes.c_int(), ctypes.c_int())
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetName(name, len(name), device)
        for attribute, number in zip(_CAPABILITY, numbers, strict=True):
            cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability = ".".join(str(number.value) for number in numbers)
        driver = f"driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
        names.append(f"{name.value.decode('utf-8', 'replace')} (sm {capability}, {driver})")
    return names


def require_gpu(what: str) -> None:
    """Raise ScoreEdgeError where there is no NVIDIA GPU that answers.

    Args:
        what: needs it, for the message.
    """
    found = cuda_devices()
    if isinstance(found, str):
        raise ScoreEdgeError(f"{what} needs an NVIDIA GPU: {found}", "run it on the board; `score-edge doctor` looks")
