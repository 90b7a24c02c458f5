"""Where an encoder that was quantised for TensorRT would be computed wrong, this is said before it runs."""

from pathlib import Path
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.bundle.int8 import Int8
from score_edge.runtime.graphs import cpu_int8
from score_edge.runtime.graphs.cpu_int8 import cpu_flags, overflows
from score_edge.runtime.graphs.open_graph import open_graph

TENSORRT = Int8("int8", "s8s8", "minmax", 2, 0, 2.0, 1.0)
CPU = Int8("int8-cpu", "u8s8", "minmax", 2, 0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("int8", "flags", "wrong"),
    [
        (TENSORRT, ["avx2", "avx512f"], True),
        (TENSORRT, ["avx2", "avx_vnni"], False),
        (TENSORRT, ["avx2", "avx512_vnni"], False),
        (TENSORRT, ["asimddp"], False),  # a Jetson's own CPU
        (CPU, ["avx2"], False),
        (None, ["avx2"], False),
    ],
)
def test_who_overflows(int8: Int8 | None, flags: list[str], wrong: bool) -> None:
    assert overflows(int8, flags) is wrong


def test_the_flags_of_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx_vnni"}
    assert cpu_flags(tmp_path / "none") == set()


def test_opening_one_warns(quantised: Any, tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    bundle = quantised(Bundle.open("reference"), tmp_path / "int8")
    for flags, warned in (({"avx2"}, True), ({"avx2", "avx512_vnni"}, False)):
        monkeypatch.setattr(cpu_int8, "cpu_flags", lambda flags=flags: flags)
        caplog.clear()
        open_graph(bundle, "encoder", "cpu")
        assert ("tokens are wrong" in caplog.text) is warned
