"""NVIDIA's own parser and builder (TensorRT for RTX, no GPU needed) on the graphs of the reference bundle."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.engines import rtx_check
from score_edge.engines.plan import plan_graphs
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.rules import lint

onnx = pytest.importorskip("onnx")
real = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason='no TensorRT for RTX: pip install ".[rtx-check]"'
)


@real
def test_the_reference_bundle_in_every_precision():
    rows = rtx_check.parse_and_build(Bundle.open("reference"))
    assert [(row.graph, row.precision, row.problem) for row in rows] == [
        ("encoder", "fp32", ""),
        ("incremental", "fp32", ""),
        ("encoder", "fp16", ""),
        ("incremental", "fp16", ""),
        ("policy", "fp32", ""),
    ]
    full, _, half, *_ = rows
    assert 0 < half.bytes < full.bytes


@real
def test_a_calibrated_encoder(quantised, tmp_path):
    bundle = quantised(Bundle.open("reference"), tmp_path / "good")
    encoder = plan_graphs(bundle)[0]
    assert (encoder.made_as, encoder.precision) == ("int8", "int8")
    verdict = rtx_check.check_graph(encoder)
    assert verdict.problem == "" and verdict.bytes


@real
def test_a_graph_against_our_rules_is_against_nvidias_too(quantised, tmp_path):
    good, bad = (quantised(Bundle.open("reference"), tmp_path / name, name) for name in ("s8s8", "u8s8"))
    assert lint(onnx.load(bad.encoder_path))
    verdict = rtx_check.check_graph(replace(plan_graphs(good)[0], onnx=bad.encoder_path))
    assert verdict.bytes == 0
    assert "TensorRT's parser refuses it" in verdict.problem and "bias_DequantizeLinear" in verdict.problem


@real
def test_the_command():
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "build", "reference", "--check"]
    done = subprocess.run([*command, "--precision", "fp32", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["problem"] for row in json.loads(done.stdout)["verdicts"]] == [""] * 3


def test_without_it_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(rtx_check, "MODULE", "no_such_tensorrt_rtx")
    with pytest.raises(ScoreEdgeError, match="--check needs TensorRT for RTX") as caught:
        rtx_check.parse_and_build(Bundle.open("reference"))
    assert caught.value.hint == 'pip install "score-edge[rtx-check]"'
