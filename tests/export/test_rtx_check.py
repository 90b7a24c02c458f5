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

    bundle = bundled.bundle
    graphs = ["encoder", *(["incremental"] if bundle.incremental_path else [])]
    found = [(row.precision, row.graph, row.problem) for row in parse_and_build(bundle)]
    assert found == [(precision, graph, "") for precision in ("fp32", "fp16") for graph in graphs]


def test_every_family_builds_quantised(bundled: Any, quantised: Any, tmp_path: Path) -> None:
    from score_edge.engines.plan import plan_graphs
    from score_edge.engines.rtx_check import check_graph

    plan = plan_graphs(quantised(bundled.bundle, tmp_path / "int8"))[0]
    assert plan.precision == "int8"
    assert check_graph(plan).problem == ""
