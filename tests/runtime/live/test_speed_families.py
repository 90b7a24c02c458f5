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
    "lfm2_vl": "a state that cannot be turned back",
}
COUNTED = ("smolvlm",)
"""What is held is prefilled again before an answer: how much sooner than `ask` is a figure and no promise."""


@pytest.mark.parametrize("family", KINDS)
def test_the_first_word_comes_as_soon_after_1024_steps_and_sooner_than_ask(
    family: str, bundle_of: Callable[[str], Any]
) -> None:
    command = [sys.executable, str(TOOL), str(bundle_of(family).folder), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (short, long), whole = found["first_word_ms"], found["unpruned_ms"]
    print(
        f"| {KINDS[family]} (`{family}`) | {short:.2f} ms | {long:.2f} ms | {long / short - 1:+.0%} | "
        f"{found['cells'][0]}, {found['cells'][1]} | {whole:.0f} ms | {whole / long:.0f}x |"
    )
    assert long <= 1.1 * short
    assert family in COUNTED or whole >= 40 * long
