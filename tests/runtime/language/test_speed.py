"""What one call for a whole clip saves where every step stands between texts. Run on its own: ``make benchmark``."""

import statistics
import time

import numpy as np
import pytest

from score_edge.bundle.manifest import Prompt
from score_edge.core import Grid, KeptTokens
from score_edge.profiling.llm_shapes import llm_shape, random_rows, shaped_gguf
from score_edge.runtime.language import llama_sequence
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.language.llama_cpp import LlamaCpp

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.benchmark

STEPS, GRID, RUNS = 64, Grid(8, 8), 5
# As many tokens of text around a step as the family has: the vocabulary of a shape's file is single bytes.
FAMILIES = {
    "SmolVLM2": ("smollm2-360m", Prompt("user: ", "{question}", step="{clock} Frame[{tokens}]")),
    "Qwen3-VL": ("qwen2.5-0.5b", Prompt("user: ", "{question}", step="<{seconds}>[ {tokens}]")),
}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("retention", [1.0, 0.1])
def test_one_call_per_clip(family: str, retention: float, monkeypatch: pytest.MonkeyPatch) -> None:
    name, prompt = FAMILIES[family]
    shape = llm_shape(name)
    if retention == 1 and name != "smollm2-360m":
        pytest.skip("minutes, for what one family shows")
    layout = Layout(prompt, GRID)
    rows = random_rows(shape, STEPS, GRID.tokens)
    keep = np.random.default_rng(0).random((STEPS, GRID.tokens)) < retention
    segments = layout.clip(KeptTokens.gather(rows, keep, GRID)).segments
    sizes: list[int] = []
    decode = llama_sequence.decode
    monkeypatch.setattr(
        llama_sequence, "decode", lambda h, content, *rest: sizes.append(len(content)) or decode(h, content, *rest)
    )
    path = shaped_gguf(shape, tokens=STEPS * (GRID.tokens + 32))
    with LlamaCpp(path, context=STEPS * (GRID.tokens + 32)) as model:
        sequence, table = model.sequence(), model.token_rows
        seconds: dict[str, list[float]] = {"a call per piece": [], "one call": []}
        per_call = {}
        for _ in range(RUNS if retention < 1 else 1):
            for how, rows_of_text in (("a call per piece", None), ("one call", table)):
                model.__dict__["token_rows"] = rows_of_text
                sequence.clear()
                sizes.clear()
                began = time.perf_counter()
                sequence.append(*segments)
                seconds[how].append(time.perf_counter() - began)
                per_call[how] = sum(sizes) / len(sizes)
    before, after = (statistics.median(values) for values in seconds.values())
    calls = ", ".join(f"{how}: {size:.1f} tokens a call" for how, size in per_call.items())
    print(f"\n{family} ({name}) at {retention:.0%}, {STEPS} steps: {calls}")
    print(f"{before:.3f} s, in one call {after:.3f} s: {before / after:.2f}x")
    assert before > after
