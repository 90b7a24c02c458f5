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
    print(
        f"| `{family}` | {found['steps']} | {found['answers']} | {found['resident_mb']:.1f} MB | "
        f"{found['growth_mb']:+.2f} MB | {found['p50_ms']:.1f} ms | {found['p99_first_ms']:.1f} ms | "
        f"{found['p99_last_ms']:.1f} ms | {found['p99_last_ms'] / found['p99_first_ms']:.2f} | "
        f"{found['most_used']} of {found['cells']} | {found['rebased']} |"
    )
    assert found["steps"] == STEPS and found["answers"] == STEPS // 50
    assert not found["complaints"]
    assert found["most_used"] <= found["cells"]
    assert found["growth_mb"] <= 0.02 * found["resident_mb"]
    assert found["p99_last_ms"] <= 1.25 * found["p99_first_ms"]
