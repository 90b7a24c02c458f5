"""What the panel shows."""

import pytest
from rich.console import Console

from score_edge.bundle.folder import Bundle
from score_edge.cli.live_panel import LivePanel
from score_edge.runtime.live.events import Notice
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.runs_on import describe_pipeline
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")


@pytest.mark.parametrize(
    ("names", "selector", "memory"),
    [
        ([""], None, "cells"),
        (["front", "yard"], None, "cells"),
        (["front", "yard"], "score-query", "steps in full, chosen when you ask"),
    ],
)
def test_figures_of_each_camera(names: list[str], selector: str | None, memory: str) -> None:
    with Pipeline(Bundle.open("reference"), context=1024, threads=1, sequences=3) as pipeline:
        sources = {name: open_source(f"synthetic://?steps={6 + n}") for n, name in enumerate(names)}
        stream = Stream(pipeline, sources, StreamOptions(selector=selector))
        panel = LivePanel(stream, "here", 6, describe_pipeline(pipeline))
        stream.listen(panel)
        console = Console(width=150, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        console.print(panel)
        stream.ask("what moved?", camera=names[0])
        stream.run()
        console.print(panel)
    shown = console.export_text()
    assert "waiting for the first frames" in shown
    for n, name in enumerate(names):
        assert name in shown and f"step {5 + n}," in shown and f"{2 * (6 + n)} frames, 0 dropped" in shown
    assert shown.count("preprocess") == shown.count(memory) == len(names)
    assert ("score-query when you ask" in shown) is (selector is not None)
    assert "visual tokens" in shown and (not names[0] or "front> what moved?" in shown)


@pytest.mark.parametrize(("width", "height"), [(80, 14), (40, 8)])
def test_on_a_small_terminal_what_is_typed_and_answered_is_seen(width: int, height: int) -> None:
    with Pipeline(Bundle.open("reference"), context=1024, threads=1, sequences=3) as pipeline:
        sources = {name: open_source("synthetic://?steps=6") for name in ("front", "yard")}
        stream = Stream(pipeline, sources, StreamOptions())
        panel = LivePanel(stream, "here", 6, describe_pipeline(pipeline))
        stream.listen(panel)
        for number in range(4):
            stream.ask(f"question {number}?", camera="front")
        stream.run()
    panel(Notice("the newest line"))
    panel.typed = "how many"
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(panel)
    shown = console.export_text().splitlines()
    assert len(shown) <= height
    assert "the newest line" in shown[-3] and "ask> how many" in shown[-2] and "question 0?" not in "\n".join(shown)
