"""Thousands of steps at full speed: memory stays, speed stays, answers stay right.

``SCORE_EDGE_SOAK_STEPS=20000 pytest -m slow tests/runtime/live/test_soak.py -s`` is the long one and prints figures.
"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.evaluation.intervals import wilson
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live.events import Answered, Event, StepSeen
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source

pytest.importorskip("llama_cpp")

STEPS = int(os.environ.get("SCORE_EDGE_SOAK_STEPS", "1600"))
SCENE = 16
ASKED_EVERY = 8  # scenes
RETENTION = 0.25


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Examined(Source):
    """The endless world, which waits at the end of a scene until the questions about it are answered."""

    def __init__(self, world: EndlessWorld, steps: int) -> None:
        self.world, self._steps = world, steps
        self.go_on = threading.Semaphore(0)

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        for frame in self.world.frames():
            if frame.index == 2 * self._steps:
                return
            if frame.index and frame.index % (2 * SCENE * ASKED_EVERY) == 0:
                self.go_on.acquire(timeout=60)
            yield frame


class Examiner:
    """Asks about every eighth scene when it is over, and notes times and memory."""

    def __init__(self, source: Examined) -> None:
        self.source = source
        self.stream: Stream | None = None
        self.seconds: list[float] = []
        self.resident: list[int] = []
        self.right = self.asked = self.open = 0
        self.answers: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepSeen):
            self.seconds.append(sum(event.seconds.values()))
            self.resident.append(resident_bytes())
            scene, step = divmod(event.step, SCENE)
            if step == SCENE - 1 and (scene + 1) % ASKED_EVERY == 0:
                assert self.stream is not None
                questions = self.source.world.scene(scene).questions
                self.answers = {question.text: question.answer for question in questions}
                self.open = len(questions)
                for question in questions:
                    self.stream.ask(question.text)
                if not self.open:
                    self.source.go_on.release()
        elif isinstance(event, Answered):
            self.asked += 1
            self.right += event.text.strip().lower() == self.answers[event.question]
            self.open -= 1
            if not self.open:
                self.source.go_on.release()


@pytest.mark.slow
def test_a_stream_without_end_stays_as_it_is() -> None:
    source = Examined(EndlessWorld(scene_steps=SCENE), STEPS)
    examiner = Examiner(source)
    options = StreamOptions(selector="last-kept", retention=RETENTION, window=SCENE, max_tokens=8)
    with Pipeline(Bundle.open("reference"), context=1024, threads=1) as pipeline:
        examiner.stream = Stream(pipeline, source, options, [examiner])
        examiner.stream.run()
        rebased = examiner.stream.memory.rebased
    seconds = np.array(examiner.seconds)
    quarter = STEPS // 4
    first, last = (np.percentile(part, 99) for part in (seconds[:quarter], seconds[-quarter:]))
    settled = examiner.resident[min(2000, STEPS // 4)]
    growth = max(examiner.resident[-1], examiner.resident[-quarter]) / settled - 1
    low, high = wilson(examiner.right, examiner.asked)
    print(
        f"{STEPS} steps: {seconds.mean() * 1e3:.2f} ms per step, p50 first/last quarter "
        f"{np.median(seconds[:quarter]) * 1e3:.2f}/{np.median(seconds[-quarter:]) * 1e3:.2f} ms, p99 "
        f"{first * 1e3:.2f}/{last * 1e3:.2f} ms, resident {settled / 1e6:.1f} MB at first, {growth:+.2%} at the end, "
        f"re-based {rebased} times, {examiner.right}/{examiner.asked} right ({low:.1%}-{high:.1%})"
    )
    assert len(seconds) == STEPS
    assert growth < 0.02
    assert examiner.right / examiner.asked > 0.7
    if STEPS >= 20000:  # a shorter run on a busy machine says nothing about its slowest steps
        assert abs(last / first - 1) < 0.1
