"""As much of `pycuda.driver` as pycuda_memory.py calls, with its names, signatures and rules, over the fake driver.

Taken from the bindings of pycuda 2026.1 (src/wrapper/wrap_cudadrv.cpp): contexts live on a stack of pycuda's own per
thread, whatever is made belongs to the top of it, and a thread that ends with a context on it ends the process.
"""

import ctypes
import threading
import weakref
from types import ModuleType
from typing import Any

import numpy as np


class Error(Exception):
    """pycuda's."""


class MemoryError(Error):
    """pycuda's."""


class LogicError(Error):
    """pycuda's."""


def make(library: ctypes.CDLL) -> ModuleType:
    """The module `pycuda.driver`, and `depth()`: contexts on this thread's stack."""
    stacks = threading.local()
    module: Any = ModuleType("pycuda.driver")
    library.cuMemAlloc_v2.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.cuMemFree_v2.argtypes = (ctypes.c_uint64,)
    library.cuMemAllocHost_v2.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.cuMemFreeHost.argtypes = (ctypes.c_void_p,)
    library.cuCtxSetCurrent.argtypes = (ctypes.c_void_p,)

    def stack() -> list[Any]:
        if not hasattr(stacks, "contexts"):
            stacks.contexts = []
        return stacks.contexts

    def needs_context() -> None:
        if not stack():
            raise LogicError("explicit_context_dependent failed: invalid device context - no currently active context?")

    class Context:
        def __init__(self, handle: int) -> None:
            self.handle = handle

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Context) and self.handle == other.handle

        __hash__ = None  # type: ignore[assignment]

        def push(self) -> None:
            if not stack():  # what the driver had current comes back after the last pop
                stacks.before = library.fake_context() or None
            stack().append(self)
            library.cuCtxSetCurrent(self.handle)

        @staticmethod
        def pop() -> None:
            stack().pop()
            library.cuCtxSetCurrent(stack()[-1].handle if stack() else stacks.before)

        @staticmethod
        def get_current() -> "Context | None":
            return stack()[-1] if stack() else None

    class Device:
        def __init__(self, number: int) -> None:
            self.number = number

        def make_context(self, flags: int = 0) -> Context:
            context = Context(2)
            context.push()
            return context

        def retain_primary_context(self) -> Context:
            return Context(1)

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            needs_context()
            self.handle = 0x5

    class DeviceAllocation:
        def __init__(self, address: int) -> None:
            self._address = address
            weakref.finalize(self, library.cuMemFree_v2, address)

        def __int__(self) -> int:
            return self._address

    def mem_alloc(size: int) -> DeviceAllocation:
        needs_context()
        address = ctypes.c_uint64()
        if library.cuMemAlloc_v2(ctypes.byref(address), size):
            raise MemoryError("cuMemAlloc failed: out of memory")
        return DeviceAllocation(address.value)

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> Any:
        needs_context()
        address = ctypes.c_void_p()
        size = shape * np.dtype(dtype).itemsize
        library.cuMemAllocHost_v2(ctypes.byref(address), size)
        memory = (ctypes.c_uint8 * size).from_address(address.value or 0)
        weakref.finalize(memory, library.cuMemFreeHost, address.value)
        return np.frombuffer(memory, dtype)

    def init(flags: int = 0) -> None:
        library.cuInit(flags)

    def depth() -> int:
        return len(stack())

    for item in (Error, MemoryError, LogicError, Context, Device, Stream, mem_alloc, pagelocked_empty, init, depth):
        setattr(module, item.__name__, item)
    return module
