"""Engines built and run by TensorRT on this GPU: tools/on_gpu.sh."""

import shutil
from pathlib import Path

import pytest

from score_edge.bundle.folder import REFERENCE, Bundle

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines(precision, tmp_path: Path, record_property) -> None:
    pytest.importorskip("tensorrt")
    from score_edge.engines.build import build_engines
    from score_edge.runtime.graphs.open_graph import open_graph

    shutil.copytree(REFERENCE, tmp_path / "bundle")
    built = build_engines(Bundle.open(tmp_path / "bundle"), precision)
    record_property("built", f"{built.differences}, {built.seconds} s")
    graph, skipped = open_graph(Bundle.open(tmp_path / "bundle"), "encoder", "tensorrt")
    assert graph.provider.startswith("TensorRT") and not skipped
