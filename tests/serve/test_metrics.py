"""Power of a board at /metrics, from its sysfs."""

import re
import time
from pathlib import Path

import pytest

from score_edge.profiling.meters import Ina3221, Rapl

pytest.importorskip("prometheus_client")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_watts_of_a_board_and_of_a_counter(tmp_path: Path) -> None:
    from score_edge.serve.metrics import Metrics

    board, package = tmp_path / "sys/class/hwmon/hwmon0", tmp_path / "sys/class/powercap/intel-rapl:0"
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1200"}.items():
        write(board / name, text)
    for name, text in {"name": "package-0", "energy_uj": "0", "max_energy_range_uj": "1000000000"}.items():
        write(package / name, text)
    metrics = Metrics([Ina3221(tmp_path), Rapl(tmp_path)])
    time.sleep(0.1)
    write(package / "energy_uj", "2000000")
    found = dict(re.findall(r'score_edge_watts\{covers="(.*?)".*?\} (.*)', metrics.text().decode()))
    assert float(found["whole board"]) == 6.0
    assert 0 < float(found["CPU package"]) <= 20  # 2 J in at least 0.1 s


def test_no_sensor_no_watts() -> None:
    from score_edge.serve.metrics import Metrics

    assert "score_edge_watts{" not in Metrics().text().decode()
