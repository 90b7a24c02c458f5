"""One, two, four and eight cameras on this machine: rate, time to the first word, memory. ``make benchmark``."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.runtime.live.events import Answered, Event, StepSeen
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.benchmark

QUESTION = "how many things moved fast?"
SECONDS = float(os.environ.get("SCORE_EDGE_CAMERA_SECONDS", "20"))
CONTEXT = 2048


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sources(count: int, options: str) -> dict[str, Source]:
    return {f"camera{n}": open_source(f"synthetic://?seed={n + 3}&{options}") for n in range(count)}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_cameras_at_one_step_per_second_answer_under_a_second(count: int) -> None:
    with Pipeline(Bundle.open("reference"), context=CONTEXT, sequences=count + 1) as pipeline:
        empty = resident_mb()
        began = time.perf_counter()
        Stream(pipeline, sources(count, "steps=100"), StreamOptions()).run()
        rate = 100 * count / (time.perf_counter() - began)

        events: list[Event] = []
        stream = Stream(pipeline, sources(count, "live=1"), StreamOptions(fps=2.0), [events.append])  # 2 frames a step
        runner = threading.Thread(target=stream.run)
        runner.start()
        end = time.monotonic() + SECONDS
        rng = np.random.default_rng(0)
        while time.monotonic() < end:
            time.sleep(float(rng.uniform(0.1, 0.5)))
            stream.ask(QUESTION, camera=str(rng.choice(stream.cameras)))
        both = stream.ask(QUESTION).result(20)
        stream.stop()
        runner.join(20)
        full, kv = resident_mb(), pipeline.model.capabilities.cell_bytes
    answers = [event for event in events if isinstance(event, Answered) and event.why == "asked"]
    words = [answer.waited_s + answer.ttft_s for answer in answers]
    steps = [event for event in events if isinstance(event, StepSeen)]
    late, first = np.percentile([step.late_s for step in steps], 95), np.percentile(words, 95)
    print(
        f"{count} cameras: {rate:.0f} steps/s in all at full speed; at 1 step/s each "
        f"{len(steps) / SECONDS:.1f} steps/s, "
        f"{max(step.dropped for step in steps)} frames dropped at most, p95 {late * 1e3:.0f} ms behind, first word of "
        f"{len(words)} answers p50 {np.median(words) * 1e3:.0f} ms, p95 {first * 1e3:.0f} ms, of all cameras "
        f"{(both.waited_s + both.ttft_s) * 1e3:.0f} ms; resident {full:.0f} MB ({empty:.0f} MB when opened), "
        f"KV {(kv or 0) * CONTEXT / 1e6:.1f} MB per camera"
    )
    assert not any(answer.error for answer in answers)
    assert len(steps) >= 0.9 * count * (SECONDS - 1)
    assert first < 1.0
