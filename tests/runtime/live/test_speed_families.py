"""First words of a stream, one family for each way a prompt is laid out: tools/first_word.py. ``make benchmark``."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.benchmark

TOOL = Path(__file__).parents[3] / "tools" / "first_word.py"
KINDS = {
    "qwen2_vl": "one block",
    "qwen2_5_vl": "one block, in seconds",
    "llava_onevision": "one block and a newline row",
    "qwen3_vl": "times around steps, M-RoPE",
    "internvl": "numbered steps",
    "smolvlm": "steps counted in front",
    "lfm2_vl": "a recurrent state",
}


@pytest.mark.parametrize("family", KINDS)
def test_the_first_word_comes_as_soon_after_1024_steps_and_sooner_than_ask(
    family: str, bundle_of: Callable[[str], Any]
) -> None:
    # Of 64 steps as many as these keep something in every family: the window is full in both streams.
    command = [sys.executable, str(TOOL), str(bundle_of(family).folder), "--window", "40", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (short, long), whole = found["first_word_ms"], found["unpruned_ms"]
    print(
        f"| {KINDS[family]} (`{family}`) | {short:.2f} | {long:.2f} ({long / short - 1:+.0%}) | {found['held']} | "
        f"{found['attended']} | {found['tokens'][0]} | {whole:.0f} | {whole / long:.0f}x |"
    )
    before, after = found["attended"]  # in blocks: a few cells more may be a block more
    assert found["tokens"][0] == found["tokens"][1] and found["calls"] == [1, 1]
    assert long <= 1.1 * short * max(1.0, after / before)
    assert whole >= 40 * long
