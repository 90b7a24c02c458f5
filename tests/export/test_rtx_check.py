"""NVIDIA's own parser and builder on the graph of every family: exported small, in FP32 and FP16."""

import importlib.util
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
    from score_edge.engines.rtx_check import check_graphs

    rows = check_graphs(bundled.bundle)
    assert [(row.precision, row.problem) for row in rows if row.graph == "encoder"] == [("fp32", ""), ("fp16", "")]
