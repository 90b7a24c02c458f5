"""Engines in pycuda's context: over a fake that has pycuda's names, signatures and rules."""

import gc
import importlib.util
import logging
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_memory import Cuda
from score_edge.runtime.graphs.pycuda_memory import PycudaMemory, open_memory
from score_edge.runtime.graphs.tensorrt_graph import TensorRTGraph

pytest.importorskip("onnx")
TESTS = Path(__file__).parents[2]


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


engines = load("engines_of_the_neighbour", Path(__file__).with_name("test_tensorrt_graph.py"))


@pytest.fixture
def pycuda(fake_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`pycuda.driver`, installed."""
    (tmp_path / "installed" / "pycuda").mkdir(parents=True)
    (tmp_path / "installed" / "pycuda" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.delitem(sys.modules, "pycuda", raising=False)
    driver = load("fake_pycuda", TESTS / "fake_pycuda.py").make(fake_gpu.driver)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    yield driver
    sys.modules.pop("pycuda", None)


def test_without_pycuda_the_driver_is_called_directly(fake_gpu: Any) -> None:
    if importlib.util.find_spec("pycuda"):
        pytest.skip("pycuda is installed here")
    assert type(open_memory()) is Cuda


def test_a_pycuda_that_does_not_load_is_said_and_left_alone(pycuda, monkeypatch, caplog) -> None:
    monkeypatch.delitem(sys.modules, "pycuda.driver")
    (Path(sys.path[0]) / "pycuda" / "driver.py").write_text("raise ImportError('libcurand.so.10')")
    with caplog.at_level(logging.WARNING):
        assert type(open_memory()) is Cuda
    assert "libcurand.so.10" in caplog.text


def test_engines_run_in_the_users_context_and_on_his_stream(pycuda, fake_gpu, tmp_path) -> None:
    context = pycuda.Device(0).make_context()
    stream = pycuda.Stream()
    graph = TensorRTGraph(engines.write_engine(tmp_path / "double.engine", 4), PycudaMemory(stream))
    for seed in range(4):
        x = engines.numbers(4, seed)
        np.testing.assert_array_equal(graph.run(x=x)["double"], 2 * x)
    assert fake_gpu.driver.fake_context() == context.handle == 2
    assert fake_gpu.launches == 3  # CUDA graphs work: they need no more than the stream's handle
    assert pycuda.depth() == 1
    context.pop()


def test_without_a_context_of_the_user_it_is_the_primary_one(pycuda, fake_gpu, tmp_path) -> None:
    memory = open_memory()
    assert isinstance(memory, PycudaMemory) and pycuda.depth() == 0
    graph = TensorRTGraph(engines.write_engine(tmp_path / "double.engine", 4), memory)
    assert fake_gpu.driver.fake_context() == 1 and pycuda.depth() == 0
    assert fake_gpu.blocks == 4
    x = engines.numbers(4)
    np.testing.assert_array_equal(graph.run(x=x)["double"], 2 * x)
    del graph, memory
    gc.collect()
    fake_gpu.tensorrt.Context.recorded.clear()
    assert fake_gpu.blocks == 0


def test_another_thread_leaves_nothing_on_pycudas_stack(pycuda, tmp_path) -> None:
    graph = TensorRTGraph(engines.write_engine(tmp_path / "double.engine", 4))
    found: list[Any] = []

    def work() -> None:
        found.append(graph.run(x=engines.numbers(4))["double"])
        other = TensorRTGraph(engines.write_engine(tmp_path / "other.engine", 4))
        found.append(other.run(x=engines.numbers(4))["double"])
        found.append(pycuda.depth())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], 2 * engines.numbers(4))
    np.testing.assert_array_equal(found[1], found[0])
    assert found[2] == 0


def test_too_little_memory_is_said(pycuda, fake_gpu, tmp_path) -> None:
    fake_gpu.limit(16)
    with pytest.raises(ScoreEdgeError, match="pycuda: cuMemAlloc failed: out of memory") as caught:
        TensorRTGraph(engines.write_engine(tmp_path / "double.engine", 4))
    assert "close other programs" in caught.value.hint
    assert pycuda.depth() == 0
