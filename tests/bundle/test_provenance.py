"""Where a bundle comes from, on machines whose packages have other names."""

import sys
from pathlib import Path

import pytest

from score_edge.bundle.provenance import Provenance


def install(folder: Path, name: str, version: str) -> None:
    (folder / f"{name}-{version}.dist-info").mkdir()
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def test_packages_go_under_the_name_they_are_installed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the extra gpu and on a Jetson, where there is no distribution of the name onnxruntime."""
    install(tmp_path, "onnx", "1.2")
    install(tmp_path, "onnxruntime_gpu", "3.4")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    versions = Provenance.now("a checkpoint", "onnx", "onnxruntime", "torch").versions
    assert versions == {"onnx": "1.2", "onnxruntime-gpu": "3.4"}


def test_a_command_that_ran_again_is_noted_once_and_last() -> None:
    made = Provenance("a checkpoint", "", "", {})
    for command in ("train policy", "train adapter", "train policy"):
        made = made.after(command)
    assert made.source == "a checkpoint; train adapter; train policy"
