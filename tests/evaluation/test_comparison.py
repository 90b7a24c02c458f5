"""Pruned beside unpruned: what the table calls a median is one, in every row, and the run in the middle is shown."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from score_edge.cli.tables import comparison_table
from score_edge.core import Answer, Timings
from score_edge.evaluation import comparison


def test_every_stage_of_the_table_is_a_median(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {"score": iter((9.0, 0.9, 0.2, 0.1)), "all": iter((0.4, 0.7, 0.3))}

    def ask(pipeline: Any, encode: Any, question: str, *, selector: Any, **_: Any) -> comparison.Reply:
        seconds = next(took[selector.name])
        timings = Timings(seconds, seconds, seconds, seconds, 1 - seconds, seconds, 1)
        answer = Answer("two", 1, 10, timings)
        return comparison.Reply(answer, selector.name, 0.1, np.ones((1, 4), bool), np.ones((1, 4), bool), [])

    monkeypatch.setattr(comparison, "ask", ask)
    score, everything = SimpleNamespace(name="score"), SimpleNamespace(name="all")
    pipeline: Any = SimpleNamespace(selector=lambda name: everything)
    found = comparison.compare(pipeline, lambda: None, "?", selector=score, retention=0.1, runs=3)  # type: ignore[arg-type, return-value]
    # The first run, 9 s, warms up: no stage of it counts.
    for stage in ("read", "preprocess", "encode", "select", "generate"):
        assert found.seconds[stage] == (0.2, 0.4)
    assert set(found.speedup) == {"prefill", "ttft", "whole"}
    console = Console(width=100)
    with console.capture() as shown:
        console.print(comparison_table(found))
    row = next(line for line in shown.get().splitlines() if "read video" in line)
    assert "200.0 ms" in row and "400.0 ms" in row


@pytest.mark.parametrize(("seconds", "shown"), [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 3.0, 2.0], 3.0), ([5.0], 5.0)])
def test_the_run_of_the_median_prefill_is_shown(seconds: list[float], shown: float) -> None:
    runs: list[Any] = [SimpleNamespace(answer=SimpleNamespace(timings=SimpleNamespace(prefill=s))) for s in seconds]
    assert comparison.median_run(runs).answer.timings.prefill == shown
