"""The same device memory from pycuda, where it is installed: an engine then shares its context and streams.

Only what is owned comes from pycuda (context, stream, memory), and can be handed to pycuda code of your own; calls on
it go through the driver as in cuda_memory.py. That includes CUDA graphs, which pycuda up to 2026.1 does not have.
**Never run on a GPU by us.**
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.graphs.cuda_memory import Buffer, Cuda

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_log = logging.getLogger(__name__)


def open_memory() -> Cuda:
    """Device memory for one engine: pycuda's where it is installed and works, else through ctypes."""
    if importlib.util.find_spec("pycuda") is None:
        return Cuda()
    try:
        require("pycuda.driver", "pycuda")
    except ScoreEdgeError as error:  # it was built for another CUDA
        _log.warning("engines do without pycuda: %s", error.message)
        return Cuda()
    return PycudaMemory()


class PycudaMemory(Cuda):
    """Works in the pycuda context that is current in this thread, else in the first GPU's primary one.

    Args:
        stream: a `pycuda.driver.Stream` that the engine queues its work on; None makes one.

    Attributes:
        pycuda_stream: the stream, for pycuda code that waits for the engine or lets it wait.

    Raises:
        ScoreEdgeError: pycuda is not installed, or a call of the driver failed; so do all methods.

    Example:
        >>> stream = pycuda.driver.Stream()  # doctest: +SKIP
        >>> graph = TensorRTGraph(path, memory=PycudaMemory(stream))  # doctest: +SKIP
    """

    def __init__(self, stream: Any = None) -> None:
        self._load()
        self._driver: Any = require("pycuda.driver", "pycuda")
        with self._errors():
            self._driver.init()
            # Kept as an object: pycuda gives a context back when its last reference goes.
            self._shared = self._driver.Context.get_current() or self._driver.Device(0).retain_primary_context()
            self._context = self._shared.handle
            with self._active():
                self.pycuda_stream = stream or self._driver.Stream(_NON_BLOCKING)
        self.stream = int(self.pycuda_stream.handle)
        self.enter()

    def allocate(self, size: int) -> Buffer:
        """Memory of `size` bytes on the GPU, and as much page-locked memory to copy through."""
        size = max(size, 1)
        with self._errors(), self._active():
            pointer, host = self._driver.mem_alloc(size), self._driver.pagelocked_empty(size, np.uint8)
        return Buffer(int(pointer), host.ctypes.data, size, owner=(pointer, host))

    @contextmanager
    def _active(self) -> Iterator[None]:
        """The context on pycuda's own stack, which it looks at when it makes something.

        And off again: a thread that ends with a context on that stack ends the process.
        """
        if self._driver.Context.get_current() == self._shared:
            yield
            return
        self._shared.push()
        try:
            yield
        finally:
            self._driver.Context.pop()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            little = "close other programs that use the GPU" if isinstance(error, self._driver.MemoryError) else ""
            raise ScoreEdgeError(f"pycuda: {error}", little) from error
