"""ONNX Runtime's telemetry: no file in the user's cache and no connection, in this process and in those it starts."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from score_edge.bundle.folder import REFERENCE

USE = f"""
import time
import score_edge
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
OnnxGraph({str(REFERENCE / "policy.onnx")!r})
from score_edge.doctor.software import check_provider
assert check_provider("CPUExecutionProvider").status == "ok"
time.sleep(1)
"""


def run(home: Path, program: str, *before: str) -> None:
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    subprocess.run([*before, sys.executable, "-c", program], env=environment, check=True, timeout=120)


def test_no_file_is_left_in_the_home_of_the_user(tmp_path: Path) -> None:
    run(tmp_path, USE)
    assert list(tmp_path.iterdir()) == []


def test_whoever_wants_it_may_have_it(tmp_path: Path) -> None:
    """Nobody's own choice is overruled."""
    program = "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import score_edge"
    run(tmp_path, f"{program}; assert os.environ['ORT_DISABLE_TELEMETRY'] == '0'")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_connection_is_made(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    home = tmp_path / "home"
    home.mkdir()
    run(home, USE, "strace", "-f", "-e", "trace=socket,connect,sendto", "-o", str(log))
    calls = log.read_text()
    assert "AF_INET" not in calls and "sin_port" not in calls


def test_every_import_of_onnxruntime_comes_after_ours() -> None:
    """The package itself sets the switch: a file that imports onnxruntime lies in it."""
    import score_edge

    source = Path(score_edge.__file__).read_text(encoding="utf-8")
    assert 'os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")' in source
