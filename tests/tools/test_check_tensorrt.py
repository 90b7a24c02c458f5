"""A download that failed is told apart from a call that does not fit, in the tool, in make and in CI."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("check_tensorrt", ROOT / "tools" / "check_tensorrt.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

FOUND = {
    "version": "10.3.0",
    "problems": [],
    "typed": True,
    "network_flags": 3,
    "weak_flags": ["FP16"],
    "opset": 20,
    "monitor": True,
    "calibrates": [],
}


@pytest.mark.parametrize(
    ("problems", "there", "code"),
    [
        ([], True, 0),
        ([], False, tool.NOT_FETCHED),
        (["Runtime.deserialize_cuda_engine is not there"], True, 1),
        (["Runtime.deserialize_cuda_engine is not there"], False, 1),
    ],
)
def test_exit_codes(problems: list[str], there: bool, code: int, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "10.3.0" / "tensorrt_bindings").mkdir(parents=True)
    monkeypatch.setattr(tool, "WHEELS", {"10.3.0": "a"} if there else {"10.3.0": "a", "11.4.0": "b"})
    monkeypatch.setattr(tool, "probe", lambda folder, version: {**FOUND, "problems": problems})
    monkeypatch.setattr(sys, "argv", ["check_tensorrt.py", str(tmp_path), "--offline"])
    assert tool.main() == code
    assert (problems or ["all fit"])[0] in capsys.readouterr().out


def test_why_a_download_failed_is_said(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert not tool.fetch(tmp_path, "10.3.0")
    assert "tensorrt-cu12-bindings==10.3.0: ERROR: No matching distribution" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "passes"), [(0, True), (tool.NOT_FETCHED, True), (1, False), (2, False)])
def test_make_goes_on_only_without_a_download(code: int, passes: bool, tmp_path: Path) -> None:
    """The target's own recipe, with a Python that ends with this code."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\nexit {code}\n")
    python.chmod(0o755)
    (tmp_path / ".dev").touch()
    command = ["make", "bindings", f"VENV={tmp_path}", "--assume-old", f"{tmp_path}/.dev"]
    done: Any = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr


def test_ci_hides_nothing() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "|| true" not in script
    for step in ("make bindings", "make check", "make test"):
        assert f"\n{step}\n" in script
    assert "gstreamer1.0-tools" in script
    assert "pytest -rs" in (ROOT / "Makefile").read_text(encoding="utf-8")
