"""`score-edge export` on the command line: what it hands over, what it prints, how it ends."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge import cli
from score_edge.errors import ScoreEdgeError
from score_edge.export import bundle_export
from score_edge.onnx_files.difference import Difference

COMMAND = ["export", "a/model", "-o", "bundle", "--llm", "llm.gguf"]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    arguments: dict[str, Any] = {}

    def export_bundle(model: str, folder: Path, **options: Any) -> Any:
        arguments.update(options, model=model, folder=folder)
        rows = [Difference("tokens", 1e-6, 1e-7, 2e-6, 0.9999999, "rendered")]
        return SimpleNamespace(bundle=SimpleNamespace(folder=folder), differences=rows, notes=["it uses last-kept"])

    monkeypatch.setattr(bundle_export, "export_bundle", export_bundle)
    return arguments


def run(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, [*COMMAND, *arguments])


@pytest.mark.parametrize(
    ("given", "size"), [([], None), (["--resolution", "448"], (448, 448)), (["--resolution", "640x360"], (360, 640))]
)
def test_resolution(called: dict[str, Any], given: list[str], size: Any) -> None:
    assert run(*given).exit_code == 0
    assert called["size"] == size and called["llm"] == Path("llm.gguf") and called["precision"] == "fp32"


@pytest.mark.parametrize("resolution", ["big", "1x2x3", "0", "-4", "640x360000"])
def test_what_is_no_resolution_is_a_wrong_usage(called: dict[str, Any], resolution: str) -> None:
    assert run("--resolution", resolution).exit_code == 2
    assert not called


def test_aspect(called: dict[str, Any]) -> None:
    assert run("--resolution", "auto").exit_code == 0 and called["size"] is None and called["aspect"] is None
    assert run("--aspect", "4:3").exit_code == 0 and called["aspect"] == (4, 3)
    called.clear()
    for wrong in (
        ["--aspect", "16"],
        ["--aspect", "1:9"],
        ["--aspect", "0:1"],
        ["--aspect", "4:3", "--resolution", "8"],
    ):
        assert run(*wrong).exit_code == 2
    assert not called


def test_the_table_and_the_notes(called: dict[str, Any]) -> None:
    done = run()
    assert "rendered" in done.stdout and "2e-06" in done.stdout and "0.9999999" in done.stdout
    assert "it uses last-kept" in done.stderr and "put its language model, llm.gguf, beside it" in done.stderr


def test_json(called: dict[str, Any]) -> None:
    found = json.loads(run("--json").stdout)
    assert found["bundle"] == "bundle" and found["notes"] == ["it uses last-kept"]
    assert found["differences"][0]["cosine"] == 0.9999999


def test_a_difference_beyond_the_tolerance_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ScoreEdgeError("encoder.onnx: too far away from torch", "allow more")

    monkeypatch.setattr(bundle_export, "export_bundle", refuse)
    monkeypatch.setattr("sys.argv", ["score-edge", *COMMAND])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "too far away from torch" in capsys.readouterr().err
