"""The driver layer on a real GPU: tools/on_gpu.sh."""

import time
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_memory import Cuda

SIZE = 1 << 26
pytestmark = pytest.mark.usefixtures("gpu")


def noise(seed: int, size: int = SIZE) -> Any:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def test_bytes_come_back(record_property) -> None:
    cuda = Cuda()
    buffer = cuda.allocate(SIZE)
    buffer.host[:] = noise(0)
    seconds = []
    for copy in (cuda.upload, cuda.download):
        began = time.perf_counter()
        copy(buffer, SIZE)
        cuda.wait()
        seconds.append(time.perf_counter() - began)
        if copy == cuda.upload:
            buffer.host[:] = 0
    assert np.array_equal(buffer.host, noise(0))
    up, down = (SIZE / 1e9 / second for second in seconds)
    record_property("copies", f"{up:.1f} GB/s up, {down:.1f} GB/s down, 64 MiB, page-locked")


def test_a_recorded_graph_reads_its_buffers_anew(record_property) -> None:
    cuda = Cuda()
    buffer = cuda.allocate(1 << 20)
    launch = cuda.record(lambda: cuda.upload(buffer, 1 << 20))
    for seed in (1, 2):
        buffer.host[:] = noise(seed, 1 << 20)
        launch()
        cuda.wait()
        buffer.host[:] = 0
        cuda.download(buffer, 1 << 20)
        cuda.wait()
        assert np.array_equal(buffer.host, noise(seed, 1 << 20))
    record_property("graph", "captured on the stream, launched twice")


def test_too_little_memory_is_a_message(record_property) -> None:
    with pytest.raises(ScoreEdgeError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        Cuda().allocate(1 << 42)
    record_property("message", caught.value.message)


def test_pycuda_shares_its_context(record_property) -> None:
    driver = pytest.importorskip("pycuda.driver")
    from score_edge.runtime.graphs.pycuda_memory import PycudaMemory

    driver.init()
    context = driver.Device(0).make_context()
    try:
        memory = PycudaMemory(driver.Stream())
        buffer = memory.allocate(1 << 20)
        buffer.host[:] = noise(3, 1 << 20)
        memory.upload(buffer, 1 << 20)
        memory.wait()
        mine = np.empty(1 << 20, np.uint8)
        driver.memcpy_dtoh(mine, buffer.pointer)
        assert np.array_equal(mine, noise(3, 1 << 20))
        del buffer, memory
    finally:
        context.pop()
    record_property("pycuda", "pycuda read what the engine's memory holds")
