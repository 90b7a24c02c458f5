"""Five thousand steps of every family, each in a process of its own: tools/soak.py. ``make benchmark``."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.benchmark

TOOL = Path(__file__).parents[3] / "tools" / "soak.py"
STEPS = int(os.environ.get("SCORE_EDGE_SOAK_STEPS", "5000"))


def test_memory_and_time_per_step_stay(family: str, bundle_of: Callable[[str], Any]) -> None:
    command = [sys.executable, str(TOOL), str(bundle_of(family).folder), "--steps", str(STEPS), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    resident, (first, last) = found["resident_mb"], found["p99_ms"]
    settled = resident[len(resident) // 3]
    print(
        f"| `{family}` | {found['steps']} | {resident[0]:.1f} | {settled:.1f} | {resident[-1]:.1f} | "
        f"{found['p50_ms']:.1f} | {first:.1f} | {last:.1f} | {last / first:.2f} | "
        f"{found['most_used']} of {found['cells']} | {found['rebased']} |"
    )
    assert found["steps"] == STEPS and found["answers"] == STEPS // 50
    assert not found["complaints"]
    assert found["most_used"] <= found["cells"]
    assert resident[-1] <= 1.01 * settled
    assert resident[-1] <= 1.05 * resident[0]  # llama.cpp touches its buffers in full when it first re-bases
    assert last <= 1.25 * first
