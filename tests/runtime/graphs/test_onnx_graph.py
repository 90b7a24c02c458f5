from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.onnx_graph import OnnxGraph

onnx = pytest.importorskip("onnx")


def write_graph(path: Path, opset: int = 17) -> Path:
    """total = a + b, double = 2 * total; a is (n, 2), b is (2,)."""
    tensor, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [node("Add", ["a", "b"], ["total"]), node("Add", ["total", "total"], ["double"])],
        "sums",
        [tensor("a", real, ["n", 2]), tensor("b", real, [2])],
        [tensor("total", real, ["n", 2]), tensor("double", real, ["n", 2])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def test_named_arrays_in_and_out(tmp_path: Path) -> None:
    graph = OnnxGraph(write_graph(tmp_path / "sums.onnx"), threads=1)
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([10, 20], np.float32)
    out = graph.run(b=b, a=a)
    assert list(out) == ["total", "double"]
    np.testing.assert_array_equal(out["total"], a + b)
    np.testing.assert_array_equal(out["double"], 2 * (a + b))
    assert graph.inputs == {"a": ("n", 2), "b": (2,)}
    assert graph.outputs == {"total": ("n", 2), "double": ("n", 2)}
    assert graph.provider == "CPUExecutionProvider"


def test_absent_providers_are_passed_over_but_one_is_needed(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "sums.onnx")
    graph = OnnxGraph(path, providers=("NoSuchExecutionProvider", "CPUExecutionProvider"))
    assert graph.provider == "CPUExecutionProvider"
    with pytest.raises(ScoreEdgeError, match="no NoSuchExecutionProvider") as caught:
        OnnxGraph(path, providers=("NoSuchExecutionProvider",))
    assert "CPUExecutionProvider" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, "cut", "new"])
def test_damaged_and_too_new_files(tmp_path: Path, content: bytes | str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_graph(tmp_path / "bad.onnx", opset=99 if content == "new" else 17)
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ScoreEdgeError, match=r"bad\.onnx cannot be loaded by ONNX Runtime") as caught:
        OnnxGraph(path)
    assert "export the bundle again" in caught.value.hint
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match="does not exist"):
        OnnxGraph(tmp_path / "none.onnx")


A, B = np.zeros((3, 2), np.float32), np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": A}, r"sums\.onnx takes \['a', 'b'\], but was given \['a'\]"),
        ({"a": A, "b": B, "c": B}, r"but was given \['a', 'b', 'c'\]"),
        ({"a": A.T, "b": B}, r"failed on .*\(2, 3\) float32.*invalid dimensions"),
        ({"a": A.astype(np.float64), "b": B}, "failed on .*float64"),
    ],
)
def test_wrong_inputs(tmp_path: Path, inputs: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    graph = OnnxGraph(write_graph(tmp_path / "sums.onnx"))
    with pytest.raises(ScoreEdgeError, match=message):
        graph.run(**inputs)
    assert capfd.readouterr() == ("", "")


def test_cuda_computes_fp32_as_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: Any) -> Any:
        asked.extend(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxGraph(write_graph(tmp_path / "sums.onnx"), providers=("CUDAExecutionProvider",))
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0"})]
