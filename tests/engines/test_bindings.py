"""NVIDIA's own bindings of every TensorRT we name, imported over a stub: real classes, signatures and enums, no engine.

`make bindings` fetches them (7 MB) into build/; without them these tests skip and say so.
"""

import importlib.util
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "tensorrt-bindings"
spec = importlib.util.spec_from_file_location("check_tensorrt", ROOT / "tools" / "check_tensorrt.py")
assert spec and spec.loader
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@cache
def found(version: str) -> dict[str, Any]:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the stub")
    if not (FOLDER / version / "tensorrt_bindings").is_dir():
        pytest.skip(f"no bindings of TensorRT {version} in {FOLDER}: make bindings")
    try:
        return tool.probe(FOLDER, version)
    except RuntimeError as error:
        pytest.skip(f"this Python {sys.version.split()[0]} cannot import them: {error}")


@pytest.mark.parametrize("version", tool.WHEELS)
def test_every_call_is_there_with_its_arguments(version):
    assert found(version)["problems"] == []
    assert found(version)["version"].startswith(version)


@pytest.mark.parametrize("version", tool.WHEELS)
def test_no_call_goes_unchecked(version):
    assert tool.uncovered(ROOT, set(found(version)["names"])) == set()


def test_strong_typing_came_with_10_and_its_flag_moved_in_11():
    assert not found("8.6.1")["typed"]
    assert found("10.3.0")["typed"] and found("11.4.0")["typed"]
    assert found("8.6.1")["network_flags"] == 1 << found("8.6.1")["flag_values"]["EXPLICIT_BATCH"]
    old, new = found("10.16.1"), found("11.4.0")
    assert old["flag_values"]["STRONGLY_TYPED"] != new["flag_values"]["STRONGLY_TYPED"]
    assert old["network_flags"] & 1 << old["flag_values"]["STRONGLY_TYPED"]
    assert new["network_flags"] == 1 << new["flag_values"]["STRONGLY_TYPED"]
    assert "EXPLICIT_BATCH" not in new["flag_values"]


def test_a_dla_and_a_calibrator_are_reached_by_flags_until_11():
    assert not found("10.3.0")["typed_by_flags"] and found("11.4.0")["typed_by_flags"]


def test_precision_flags_only_where_a_network_does_not_say_it():
    assert found("8.6.1")["precision_flags"] == {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}
    assert found("10.3.0")["precision_flags"] == {"fp32": [], "fp16": [], "int8": []}
    assert found("10.3.0")["weak_flags"] == ["INT8", "FP16"]
    assert found("11.4.0")["weak_flags"] is False


def test_opset_17_until_10():
    assert found("8.6.1")["opset"] == 17
    assert found("10.3.0")["opset"] == found("11.4.0")["opset"] == 20


def test_progress_came_with_10_and_ours_is_one_that_tensorrt_takes():
    assert not found("8.6.1")["monitor"]
    for version in ("10.3.0", "11.4.0"):
        assert found(version)["monitor"]
        assert found(version)["phases"] == [["tactics", 0, 4], ["tactics", 1, 4]]


@pytest.mark.parametrize("version", [version for version in tool.WHEELS if version != "11.4.0"])
def test_a_calibrator_of_ours_is_one_that_tensorrt_takes(version):
    assert found(version)["calibrates"] == [1, None, [4096], [8192], None, "ranges"]


def test_from_11_on_there_is_none_and_that_is_said():
    assert found("11.4.0")["calibrates"].startswith("TensorRT 11.4.0.106 calibrates no more")


@pytest.mark.parametrize("version", tool.WHEELS)
def test_errors_are_kept_and_chatter_is_not(version):
    assert found(version)["logged"] == ["bad graph"]
