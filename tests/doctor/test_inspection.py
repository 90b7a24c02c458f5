import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import REFERENCE, Bundle, write_bundle
from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.doctor.inspection import check_graph_shapes, describe
from score_edge.errors import ScoreEdgeError

MANIFEST = Manifest(
    name="tiny",
    family="siglip",
    vision=Vision(
        graph=FileRef("encoder.onnx"),
        height=48,
        width=64,
        patch=8,
        merge=1,
        frames_per_step=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resample="bilinear",
        fps=2.0,
        dim=16,
        grid=(6, 8),
    ),
    selector=Selection("score", FileRef("policy.onnx"), retention=0.25),
    language=Language("plain", context=4096, dim=16, gguf=FileRef("llm.gguf")),
    prompt=Prompt("", "{question}"),
    provenance=Provenance("here", "2026-01-02T03:04:05+00:00", "abc", {"score-edge": "0.1.0"}),
)


def graph(inputs: dict[str, int], output: str, width: int | None) -> bytes:
    """Every input times a matrix, added up: (rows, width), or (rows,) for None."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes: list[Any] = []
    weights: list[Any] = []
    for name, columns in inputs.items():
        matrix = np.zeros((columns, width) if width else (columns,), np.float32)
        weights.append(onnx.numpy_helper.from_array(matrix, f"{name}_weight"))
        nodes.append(helper.make_node("MatMul", [name, f"{name}_weight"], [f"{name}_product"]))
    nodes.append(helper.make_node("Sum", [f"{name}_product" for name in inputs], [output]))
    takes = [helper.make_tensor_value_info(name, kind, ["rows", columns]) for name, columns in inputs.items()]
    gives = [helper.make_tensor_value_info(output, kind, ["rows", width] if width else ["rows"])]
    made = helper.make_graph(nodes, "test", takes, gives, weights)
    content: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return content


def bundle(folder: Path, encoder: bytes, policy: bytes) -> Bundle:
    return write_bundle(folder, MANIFEST, {"encoder.onnx": encoder, "policy.onnx": policy, "llm.gguf": b"weights"})


def test_describe_is_json(tmp_path: Path) -> None:
    told = json.loads(json.dumps(describe(bundle(tmp_path / "bundle", b"encoder", b"policy"))))
    assert told["bytes"] == len(b"encoder" + b"policy" + b"weights")
    assert told["vision"]["tokens_per_step"] == 48
    assert told["vision"]["tokens_per_second"] == 96
    assert told["selector"] == {"name": "score", "policy": "policy.onnx", "query": None, "retention": 0.25}
    assert told["language"]["seconds_unpruned"] == pytest.approx(4096 / 96)
    assert told["language"]["seconds_kept"] == pytest.approx(4 * 4096 / 96)
    assert told["provenance"] == dataclasses.asdict(MANIFEST.provenance)
    assert [file["file"] for file in told["files"]] == ["encoder.onnx", "policy.onnx", "llm.gguf"]


ENCODER = ({"patches": 192}, "tokens", 16)
POLICY = ({"tokens": 16, "previous": 16}, "keep", None)
GRAPHS: dict[str, tuple[Any, Any, str]] = {
    "fit": (ENCODER, POLICY, ""),
    "encoder": (({"patches": 192}, "tokens", 8), POLICY, "encoder graph: output tokens has the shape (rows, 8)"),
    "policy": (ENCODER, ({"tokens": 16, "previous": 8}, "keep", None), "policy graph: input previous has the shape"),
    "swapped": (POLICY, ENCODER, "encoder graph has the inputs tokens, previous, expected patches"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs(case: str, tmp_path: Path) -> None:
    encoder, policy, expected = GRAPHS[case]
    made = bundle(tmp_path / "bundle", graph(*encoder), graph(*policy))
    if not expected:
        check_graph_shapes(made)
        return
    with pytest.raises(ScoreEdgeError) as caught:
        check_graph_shapes(made)
    assert expected in caught.value.message


@pytest.mark.parametrize(("name", "where"), [("incremental", "vision"), ("query", "selector")])
def test_no_graph_of_a_bundle_is_left_out(name: str, where: str, tmp_path: Path) -> None:
    """The reference bundle with its encoder in the place of another graph."""
    shutil.copytree(REFERENCE, tmp_path / "bundle")
    made = Bundle.open(tmp_path / "bundle")
    assert f"{name}.onnx" in str(describe(made)[where])
    check_graph_shapes(made)
    shutil.copyfile(made.encoder_path, made.folder / f"{name}.onnx")
    with pytest.raises(ScoreEdgeError, match=f"{name} graph has the inputs patches, expected"):
        check_graph_shapes(made)


def test_a_damaged_graph(tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match=r"encoder\.onnx cannot be loaded"):
        check_graph_shapes(bundle(tmp_path / "bundle", b"not a graph", b"nor this"))


def test_provenance_names_versions_and_commit() -> None:
    now = Provenance.now("a checkpoint", "numpy")
    assert now.versions.keys() == {"score-edge", "numpy"}
    assert now.created.endswith("+00:00")
    assert all(character in "0123456789abcdef-irty" for character in now.git_commit)
