"""Memory, streams and graphs of the GPU, through the driver's C library.

ctypes over libcuda: pycuda has no wheels and needs a CUDA toolkit to build, cuda-bindings must be of the board's CUDA
version, and a dozen functions whose C interface has not changed since CUDA 11.4 need neither. pycuda_memory.py lets an
engine share the context of pycuda code. Only after `require_gpu`.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs import cuda_driver

_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: TensorRT may allocate while it is captured
_P = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_P), ctypes.c_int),
    "cuCtxSetCurrent": (_P,),
    "cuCtxPushCurrent_v2": (_P,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(_P),),
    "cuMemAlloc_v2": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemAllocHost_v2": (ctypes.POINTER(_P), ctypes.c_size_t),
    "cuMemFreeHost": (_P,),
    "cuMemcpyHtoDAsync_v2": (ctypes.c_uint64, _P, ctypes.c_size_t, _P),
    "cuMemcpyDtoHAsync_v2": (_P, ctypes.c_uint64, ctypes.c_size_t, _P),
    "cuStreamCreate": (ctypes.POINTER(_P), ctypes.c_uint),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamSynchronize": (_P,),
    "cuStreamBeginCapture_v2": (_P, ctypes.c_int),
    "cuStreamEndCapture": (_P, ctypes.POINTER(_P)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(_P), _P, ctypes.c_ulonglong),
    "cuGraphLaunch": (_P, _P),
    "cuGraphExecDestroy": (_P,),
    "cuGraphDestroy": (_P,),
}


class Cuda:
    """The first GPU's primary context, which is the one TensorRT works in, and a stream of its own.

    Raises:
        ScoreEdgeError: a call of the driver failed; so do all methods.
    """

    def __init__(self) -> None:
        self._load()
        device, self._context, stream = ctypes.c_int(), _P(), _P()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        # Kept for the life of the process, as the CUDA runtime inside TensorRT keeps it.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self.stream = int(stream.value or 0)
        weakref.finalize(self, _in_context, self._library, self._context, cuStreamDestroy_v2=self.stream)

    def _load(self) -> None:
        self._library = ctypes.CDLL(cuda_driver.LIBRARY)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int

    def enter(self) -> None:
        """Make the context this thread's; every thread that calls anything else does it first."""
        self._call("cuCtxSetCurrent", self._context)

    def upload(self, buffer: "Buffer", size: int) -> None:
        """Queue the copy of the first bytes of a buffer to the GPU."""
        self._call("cuMemcpyHtoDAsync_v2", buffer.pointer, buffer.host.ctypes.data, size, self.stream)

    def download(self, buffer: "Buffer", size: int) -> None:
        """Queue the copy of the first bytes of a buffer from the GPU."""
        self._call("cuMemcpyDtoHAsync_v2", buffer.host.ctypes.data, buffer.pointer, size, self.stream)

    def wait(self) -> None:
        """Wait until all that is queued is done."""
        self._call("cuStreamSynchronize", self.stream)

    @contextmanager
    def _capturing(self, graph: ctypes.c_void_p) -> Iterator[None]:
        self._call("cuStreamBeginCapture_v2", self.stream, _RELAXED)
        try:
            yield
        finally:  # a capture that is left open would swallow whatever is queued next
            self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What `work` queues, as one launch that can be repeated: the same buffers, without the cost of queueing.

        The GPU keeps it as long as what this returns is kept.
        """
        graph, executable = _P(), _P()
        try:
            with self._capturing(graph):
                work()
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            if graph.value:
                self._library.cuGraphDestroy(graph)

        def launch() -> None:
            self._call("cuGraphLaunch", executable, self.stream)

        weakref.finalize(launch, _in_context, self._library, self._context, cuGraphExecDestroy=executable.value or 0)
        return launch

    def allocate(self, size: int) -> "Buffer":
        """Memory of `size` bytes on the GPU, and as much page-locked memory to copy through."""
        pointer, memory = ctypes.c_uint64(), _P()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), max(size, 1))
        try:
            self._call("cuMemAllocHost_v2", ctypes.byref(memory), max(size, 1))
        except ScoreEdgeError:
            self._library.cuMemFree_v2(pointer.value)
            raise
        host = int(memory.value or 0)
        buffer = Buffer(pointer.value, host, max(size, 1))
        weakref.finalize(
            buffer, _in_context, self._library, self._context, cuMemFree_v2=pointer.value, cuMemFreeHost=host
        )
        return buffer

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(code, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode()
            little = "close other programs that use the GPU" if reason == "CUDA_ERROR_OUT_OF_MEMORY" else ""
            raise ScoreEdgeError(f"the GPU refused {name}: {reason} ({code})", little)


def _in_context(library: ctypes.CDLL, context: Any, **calls: int) -> None:
    """Give things back. The thread that drops the last reference may never have entered the context, without which the
    driver frees nothing; and what it has entered must be current afterwards."""
    if library.cuCtxPushCurrent_v2(context):
        return  # it is gone, and all that was in it
    for name, handle in calls.items():
        getattr(library, name)(handle)
    library.cuCtxPopCurrent_v2(ctypes.byref(_P()))


class Buffer:
    """Memory on the GPU and its page-locked twin; freed with the object.

    Attributes:
        pointer: address on the GPU.
        host: (size,) uint8 view of the page-locked memory; valid as long as the buffer.
    """

    def __init__(self, pointer: int, host: int, size: int, owner: object = None) -> None:
        self.pointer = pointer
        self._owner = owner  # frees the memory when the buffer goes
        self.host: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(host))
