from pathlib import Path

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from score_edge.export import onnx_export as onnx_graph  # noqa: E402
from score_edge.export.onnx_export import export_onnx  # noqa: E402
from score_edge.onnx_files import save as graph_files  # noqa: E402
from score_edge.onnx_files.difference import compare_outputs  # noqa: E402
from score_edge.runtime.graphs.onnx_graph import OnnxGraph  # noqa: E402


class Net(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, lies: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(64, 32)
        self.lies = lies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        return y + self.lies if torch.compiler.is_exporting() else y


EXAMPLE = {"x": torch.linspace(-1, 1, 192).view(3, 64)}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_large_weights_go_beside_the_graph(
    precision: onnx_graph.Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (onnx_graph, graph_files):
        monkeypatch.setattr(module, "ONE_FILE", 1000)
    path = tmp_path / "net.onnx"
    (row,) = export_onnx(Net(), EXAMPLE, "y", path, precision=precision)
    assert {file.name for file in tmp_path.iterdir()} == {"net.onnx", "net.onnx.data"}
    assert row.relative < 1e-3 and row.cosine > 0.99999
    assert OnnxGraph(path).run(x=EXAMPLE["x"].numpy())["y"].dtype == np.float32


def test_a_graph_that_disagrees_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match=r"net\.onnx: on random input ONNX Runtime is .* away from torch") as wrong:
        export_onnx(Net(lies=0.01), EXAMPLE, "y", tmp_path / "net.onnx")
    assert "fault of the export" in wrong.value.hint
    export_onnx(Net(lies=0.01), EXAMPLE, "y", tmp_path / "net.onnx", tolerance=0.1)
    with pytest.raises(ScoreEdgeError) as asked_too_much:
        export_onnx(Net(lies=1e-5), EXAMPLE, "y", tmp_path / "net.onnx", tolerance=1e-7)
    assert "--tolerance" in asked_too_much.value.hint


def test_a_graph_that_overflows_on_some_inputs_only_is_an_error(tmp_path: Path) -> None:
    data = {"other": [EXAMPLE, {"x": EXAMPLE["x"] * float("nan")}, EXAMPLE]}
    with pytest.raises(ScoreEdgeError, match="on other input ONNX Runtime is nan of the largest value away"):
        export_onnx(Net(), EXAMPLE, "y", tmp_path / "net.onnx", data=data)


def test_no_traces_of_this_machine_and_the_opset(tmp_path: Path) -> None:
    data = {"other": [{"x": EXAMPLE["x"] * 2}, {"x": EXAMPLE["x"] * 3}]}
    rows = export_onnx(Net(), EXAMPLE, "y", tmp_path / "net.onnx", data=data)
    assert [row.data for row in rows] == ["random", "other"]
    model = onnx.load(tmp_path / "net.onnx")
    assert model.opset_import[0].version == onnx_graph.OPSET
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_compare_by_hand() -> None:
    expected, found = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32), np.array([[3.0, 4.0], [1.0, 1.0]], np.float32)
    row = compare_outputs("y", expected, found)
    assert (row.largest, row.mean, row.relative) == (1.0, 0.25, 0.25)
    assert row.cosine == pytest.approx(0.5**0.5)
