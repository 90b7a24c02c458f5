"""The engine's flow over fakes: copies, shapes, CUDA graph, memory. The real API: tests/engines/test_bindings.py."""

import gc
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.cuda_driver import cuda_devices, require_gpu
from score_edge.runtime.graphs.cuda_memory import Cuda
from score_edge.runtime.graphs.tensorrt_graph import TensorRTGraph

onnx = pytest.importorskip("onnx")


def write_engine(path: Path, rows: int | str) -> Path:
    """double = 2 * x; x is (rows, 3)."""
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("Add", ["x", "x"], ["double"])],
        "double",
        [tensor("x", onnx.TensorProto.FLOAT, [rows, 3])],
        [tensor("double", onnx.TensorProto.FLOAT, [rows, 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    shapes = [[rows, 3]] * 3 if isinstance(rows, int) else [[1, 3], [4, 3], [8, 3]]
    path.write_bytes(json.dumps({"profile": {"x": shapes}}).encode() + b"\n" + model.SerializeToString())
    return path


def numbers(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, 3), np.float32)


def test_fixed_shapes_are_recorded_once_and_launched(fake_gpu, tmp_path):
    graph = TensorRTGraph(write_engine(tmp_path / "double.engine", 4))
    assert graph.inputs == {"x": (4, 3)} and graph.outputs == {"double": (4, 3)}
    assert graph.provider == "TensorRT 10.3.0"
    first = graph.run(x=numbers(4))["double"]
    for seed in (1, 2, 3):
        np.testing.assert_array_equal(graph.run(x=numbers(4, seed))["double"], 2 * numbers(4, seed))
    assert fake_gpu.launches == 3
    np.testing.assert_array_equal(first, 2 * numbers(4))  # later runs left it alone


def test_free_shapes_within_what_was_built(fake_gpu, tmp_path):
    graph = TensorRTGraph(write_engine(tmp_path / "double.engine", "n"))
    assert graph.inputs == {"x": (None, 3)}
    for rows in (1, 8, 5):
        np.testing.assert_array_equal(graph.run(x=numbers(rows))["double"], 2 * numbers(rows))
    assert fake_gpu.launches == 0
    with pytest.raises(ScoreEdgeError, match=r"double\.engine failed on x \(9, 3\) float32: .* \(1, 3\) to \(8, 3\)"):
        graph.run(x=numbers(9))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"takes \['x'\], but was given \[\]"),
        ({"x": numbers(4), "y": numbers(4)}, r"but was given \['x', 'y'\]"),
        ({"x": numbers(4).astype(np.float64)}, r"failed on x \(4, 3\) float64: it was built for \(4, 3\) float32"),
        ({"x": numbers(4).reshape(-1)}, r"failed on x \(12,\)"),
    ],
)
def test_wrong_inputs(fake_gpu, tmp_path, inputs, message):
    with pytest.raises(ScoreEdgeError, match=message):
        TensorRTGraph(write_engine(tmp_path / "double.engine", 4)).run(**inputs)


def test_strided_input_and_another_thread(fake_gpu, tmp_path):
    graph = TensorRTGraph(write_engine(tmp_path / "double.engine", 4))
    found = []
    thread = threading.Thread(target=lambda: found.append(graph.run(x=numbers(8)[::2])["double"]))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], 2 * numbers(8)[::2])


def test_threads_at_once(fake_gpu, tmp_path):
    """As when one camera starts while another's step is encoded."""
    graph = TensorRTGraph(write_engine(tmp_path / "double.engine", "n"))
    wrong = []

    def ask(seed):
        for turn in range(200):
            x = numbers(1 + (seed + turn) % 8, seed)
            try:
                if not np.array_equal(graph.run(x=x)["double"], 2 * x):
                    wrong.append(seed)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_recorded_launch_goes_with_whoever_launches_it(fake_gpu):
    """Every camera records launches of its own; those of cameras that left must not pile up."""
    cuda = Cuda()
    launches = [cuda.record(lambda: None) for _ in range(3)]
    assert fake_gpu.recorded == 3
    del launches[:2]
    gc.collect()
    assert fake_gpu.recorded == 1


def test_a_recording_that_fails_leaves_nothing(fake_gpu):
    cuda = Cuda()
    fake_gpu.refuse_graphs()
    with pytest.raises(ScoreEdgeError, match="cuGraphInstantiateWithFlags"):
        cuda.record(lambda: None)
    assert fake_gpu.graphs == 0


def test_any_thread_may_give_memory_back(fake_gpu):
    """The last reference to what a camera had goes in a thread that never used the GPU."""
    held = [Cuda().allocate(32)]
    contexts = []

    def let_go():
        held.clear()
        gc.collect()
        contexts.append(fake_gpu.driver.fake_context())

    thread = threading.Thread(target=let_go)
    thread.start()
    thread.join()
    assert fake_gpu.blocks == 0
    assert contexts == [0]


def test_memory_is_given_back(fake_gpu, tmp_path):
    graph = TensorRTGraph(write_engine(tmp_path / "double.engine", 4))
    assert fake_gpu.blocks == 4  # two tensors, each on the GPU and page-locked
    for _ in range(3):
        graph.run(x=numbers(4))
    assert fake_gpu.blocks == 4
    del graph
    gc.collect()
    fake_gpu.tensorrt.Context.recorded.clear()
    assert fake_gpu.blocks == 0


def test_too_little_memory_is_said(fake_gpu, tmp_path):
    fake_gpu.limit(16)
    with pytest.raises(ScoreEdgeError, match="cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY") as caught:
        TensorRTGraph(write_engine(tmp_path / "double.engine", 4))
    assert "close other programs" in caught.value.hint


def test_without_page_locked_memory_nothing_stays_on_the_gpu(fake_gpu):
    cuda = Cuda()
    fake_gpu.limit_host(16)
    with pytest.raises(ScoreEdgeError, match="cuMemAllocHost_v2: CUDA_ERROR_OUT_OF_MEMORY"):
        cuda.allocate(32)
    assert fake_gpu.blocks == 0


def test_a_file_that_is_no_engine(fake_gpu, tmp_path):
    path = tmp_path / "double.engine"
    path.write_bytes(b"garbage")
    with pytest.raises(ScoreEdgeError, match=r"TensorRT 10\.3\.0 cannot load .*double\.engine"):
        TensorRTGraph(path)


def test_the_gpu_as_engines_are_filed(fake_gpu):
    assert str(require_gpu("this")) == "Orin (sm87, 16 multiprocessors)"
    assert cuda_devices() == ["Orin (sm 8.7, driver for CUDA 12.6)"]


def test_without_a_gpu_nothing_of_tensorrt_is_touched(tmp_path, monkeypatch):
    if not isinstance(cuda_devices(), str):
        pytest.skip("there is a GPU here")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(ScoreEdgeError, match="needs an NVIDIA GPU"):
        TensorRTGraph(tmp_path / "any.engine")
