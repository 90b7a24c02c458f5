"""NVIDIA's own parser and builder on the graph of every family, exported small: FP32, FP16 and Q/DQ."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason='no TensorRT for RTX: pip install ".[rtx-check]"'
    ),
]


def test_every_family_builds(bundled: Any) -> None:
    from score_edge.engines.rtx_check import parse_and_build

    rows = parse_and_build(bundled.bundle)
    assert [(row.precision, row.problem) for row in rows if row.graph == "encoder"] == [("fp32", ""), ("fp16", "")]


def test_every_family_builds_quantised(bundled: Any, quantised: Any, tmp_path: Path) -> None:
    from score_edge.engines.plan import plan_graphs
    from score_edge.engines.rtx_check import check_graph

    plan = plan_graphs(quantised(bundled.bundle, tmp_path / "int8"))[0]
    assert plan.precision == "int8"
    assert check_graph(plan).problem == ""
