"""A TensorRT engine: named arrays in, named arrays out, as `OnnxGraph`. **Never run on a GPU by us.**

Which of its calls were checked against which version's bindings is in docs/hardware.md.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.core import is_cache
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.base import Array, Shape
from score_edge.runtime.graphs.cuda_driver import require_gpu
from score_edge.runtime.graphs.cuda_memory import Buffer, Cuda
from score_edge.runtime.graphs.pycuda_memory import open_memory
from score_edge.runtime.graphs.tensorrt_library import load_tensorrt, make_logger

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "INT8": np.dtype(np.int8),
    "BOOL": np.dtype(np.bool_),
}


@dataclass
class TensorRTCache:
    """Caches of a source on the GPU, by input; the engine reads one and writes the other.

    Attributes:
        launches: recorded runs, by which of the two is read and by the number of cells.
        warm: runs that were made once without being recorded.
    """

    current: dict[str, Buffer]
    next: dict[str, Buffer]
    turn: int = 0
    launches: dict[tuple[int, int], Callable[[], None]] = field(default_factory=dict)
    warm: set[tuple[int, int]] = field(default_factory=set)


class TensorRTGraph:
    """A loaded engine with its memory on the GPU: allocated once, for the largest shapes it was built for.

    Where every shape is fixed, the kernels are recorded as a CUDA graph on the first run and launched as one from then.

    Args:
        path: of an engine that `find_engine` returned; TensorRT trusts what it loads, so nothing else belongs here.
        precision: that it computes in, for whoever asks.
        memory: device memory and the stream to run on, for example `PycudaMemory` on a stream of yours; None takes
            `open_memory`.

    Attributes:
        inputs, outputs: shape of every input and output by name; None stands for a size known at run time.
        provider: what runs it.

    Raises:
        ScoreEdgeError: no GPU, no TensorRT, an engine of another TensorRT, too little memory.
    """

    def __init__(self, path: Path, memory: Cuda | None = None, *, precision: str = "") -> None:
        require_gpu("a TensorRT engine")
        trt = load_tensorrt()
        self._name = path.name
        self.precision = precision
        self._cuda = memory or open_memory()
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        context: Any = None if self._engine is None else self._engine.create_execution_context()
        if context is None:
            raise ScoreEdgeError(f"TensorRT {trt.__version__} cannot load {path}: {self._why()}", "score-edge build")
        self._context = context
        self.provider = f"TensorRT {trt.__version__}"
        self.inputs: Mapping[str, Shape] = {}
        self.outputs: Mapping[str, Shape] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._read_tensors(trt)
        self._buffers = self._allocate()
        self._launch: Callable[[], None] | None = None
        self._fixed = all(None not in shape for shape in self.inputs.values())
        self._runs = 0
        self._busy = threading.Lock()  # one set of buffers, one stream

    def _read_tensors(self, trt: Any) -> None:
        inputs: dict[str, Shape] = {}
        outputs: dict[str, Shape] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = self._engine.get_tensor_dtype(name).name
            if kind not in _DTYPES:
                raise ScoreEdgeError(f"{self._name}: {name} is {kind}, which numpy does not know", "export it in fp32")
            self._dtypes[name] = _DTYPES[kind]
            shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                inputs[name] = shape
                least, _, most = self._engine.get_tensor_profile_shape(name, 0)
                self._limits[name] = tuple(least), tuple(most)
            else:
                outputs[name] = shape
        self.inputs, self.outputs = inputs, outputs

    def _allocate(self) -> dict[str, Buffer]:
        """A buffer per tensor, as large as the profile's largest shapes need."""
        self._set_shapes({name: most for name, (_, most) in self._limits.items()})
        buffers = {}
        for name, dtype in self._dtypes.items():
            if is_cache(name):  # a source brings its own
                continue
            shape = tuple(self._context.get_tensor_shape(name))
            if min(shape, default=1) < 0:
                raise ScoreEdgeError(f"{self._name}: the size of {name} depends on the data", "export the bundle again")
            buffers[name] = self._cuda.allocate(math.prod(shape) * dtype.itemsize)
            self._context.set_tensor_address(name, buffers[name].pointer)
        return buffers

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: every input of the graph by name, in the shape and dtype of the engine.

        Returns:
            Every output of the graph by name; arrays of their own, which the next run leaves alone.

        Raises:
            ScoreEdgeError: an input is missing, unknown, or of the wrong shape or dtype; the GPU failed.
        """
        with self._busy:
            self._upload(inputs)
            self._execute()
            return self._download()

    def start(self) -> TensorRTCache:
        """A cache of zeros; see `CachedGraph`."""

        def zeros() -> dict[str, Buffer]:
            buffers = {}
            for name, (_, shape) in self._limits.items():
                if is_cache(name):
                    buffers[name] = self._cuda.allocate(math.prod(shape) * self._dtypes[name].itemsize)
                    buffers[name].host[:] = 0
                    self._cuda.upload(buffers[name], len(buffers[name].host))
            self._cuda.wait()
            return buffers

        with self._busy:
            self._cuda.enter()
            return TensorRTCache(zeros(), zeros())

    def run_cached(self, cache: TensorRTCache, **inputs: Array) -> dict[str, Array]:
        """See `CachedGraph`; inputs and errors as for `run`.

        The number of cells is rounded up, the last of them repeated: so few numbers occur, and each is recorded as a
        CUDA graph. Encoding a cell twice changes nothing. TensorRT 8 makes INT32 of the graph's INT64.
        """
        inputs = {**inputs, "cells": inputs["cells"].astype(self._dtypes["cells"], copy=False)}
        cells = len(inputs["cells"])
        most = self._limits["cells"][1][0]
        bucket = min(1 << (cells - 1).bit_length(), most)
        if cells < bucket:
            more = bucket - cells
            inputs = {name: np.concatenate([array, array[-1:].repeat(more, 0)]) for name, array in inputs.items()}
        with self._busy:
            self._upload(inputs, cache.current.keys())
            for name, buffer in cache.current.items():
                self._context.set_tensor_address(name, buffer.pointer)
                self._context.set_tensor_address(f"new_{name}", cache.next[name].pointer)
            self._launch_cached(cache, (cache.turn, bucket))
            found = self._download()
        cache.current, cache.next, cache.turn = cache.next, cache.current, 1 - cache.turn
        return {name: array[:cells] for name, array in found.items()}

    def _launch_cached(self, cache: TensorRTCache, kind: tuple[int, int]) -> None:
        """As `_execute`, for each of the addresses and sizes that occur."""
        if kind in cache.launches:
            cache.launches[kind]()
            return
        self._queue()  # once after the shapes changed: what TensorRT puts off until then must not be recorded
        if kind in cache.warm:
            cache.launches[kind] = self._queue  # where it cannot be recorded, that is not tried at every step
            with contextlib.suppress(ScoreEdgeError):
                cache.launches[kind] = self._cuda.record(self._queue)
        cache.warm.add(kind)

    def _upload(self, inputs: Mapping[str, Array], cached: Collection[str] = ()) -> None:
        if inputs.keys() | set(cached) != self.inputs.keys():
            raise ScoreEdgeError(f"{self._name} takes {sorted(self.inputs)}, but was given {sorted(inputs)}")
        self._cuda.enter()
        for name, array in inputs.items():
            self._check(name, array)
        self._set_shapes({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            np.copyto(self._host(name, array.shape), array, casting="no")
            self._cuda.upload(self._buffers[name], array.nbytes)

    def _download(self) -> dict[str, Array]:
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self.outputs if not is_cache(name)}
        for name, shape in shapes.items():
            self._cuda.download(self._buffers[name], math.prod(shape) * self._dtypes[name].itemsize)
        self._cuda.wait()
        return {name: self._host(name, shape).copy() for name, shape in shapes.items()}

    def _execute(self) -> None:
        """The first run warms up: TensorRT may allocate in it, which no CUDA graph may hold. The second is recorded."""
        self._runs += 1
        if self._fixed and self._runs == 2:
            # An engine with work on the host cannot be recorded; it runs as it did before.
            with contextlib.suppress(ScoreEdgeError):
                self._launch = self._cuda.record(self._queue)
        if self._launch is not None:
            self._launch()
        else:
            self._queue()

    def _queue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise ScoreEdgeError(f"{self._name} failed: {self._why()}", "score-edge build")

    def _set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape and not self._context.set_input_shape(name, shape):
                raise ScoreEdgeError(f"{self._name} refuses {name} of the shape {shape}: {self._why()}")
            self._shapes[name] = shape

    def _check(self, name: str, array: Array) -> None:
        least, most = self._limits[name]
        fits = len(array.shape) == len(least) and all(
            low <= size <= high for low, size, high in zip(least, array.shape, most, strict=True)
        )
        if not fits or array.dtype != self._dtypes[name]:
            allowed = f"{least}" if least == most else f"{least} to {most}"
            raise ScoreEdgeError(
                f"{self._name} failed on {name} {array.shape} {array.dtype}: "
                f"it was built for {allowed} {self._dtypes[name]}"
            )

    def _host(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = self._dtypes[name]
        return self._buffers[name].host[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def _why(self) -> str:
        return "; ".join(self._logger.errors[-2:]) or "no reason given"
