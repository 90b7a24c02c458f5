"""What live costs and saves, side by side on this machine. Run on its own: ``make benchmark``."""

import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.evaluation import comparison
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.perception import Perception
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured

pytest.importorskip("llama_cpp")
pytestmark = pytest.mark.benchmark

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED") or Path(__file__).parents[4] / "shared")
STATIC = ("pets09_vtest_480x360.mp4", "intel_one_by_one_person.mp4", "intel_car_detection.mp4", "sam2_dog.mp4")
MOVING = ("udacity_dashcam_solid_white_right.mp4", "pysot_bag_handheld.avi")
QUESTION = "how many things moved fast?"
RUNS = 7


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Pipeline(Bundle.open("reference"), context=4096) as opened:
        yield opened


def captured_steps(count: int) -> Iterator[Captured]:
    frames = EndlessWorld(scene_steps=64).frames()
    for _ in range(count):
        yield Captured([next(frames), next(frames)], False, time.monotonic())


class Live:
    """Seeing and remembering without threads, so that times are of one thing each."""

    def __init__(self, pipeline: Pipeline, steps: int) -> None:
        self.pipeline = pipeline
        self.vision = Perception(pipeline, "last-kept", 0.1)
        self.memory = VideoMemory(
            pipeline.model,
            pipeline.sequence,
            pipeline.layout,
            cells=2048,
            window=64,
            trained=pipeline.bundle.manifest.language.trained,
        )
        for captured in captured_steps(steps):
            seen = self.vision.see(captured)
            self.memory.append(seen.tokens, seen.keep, seen.scores, seen.captured.time_s)

    def first_word(self) -> float:
        began = time.perf_counter()
        answer = self.memory.answer(QUESTION, 8)
        next(answer, "")
        seconds = time.perf_counter() - began
        answer.close()
        return seconds


def test_a_question_to_a_stream_is_answered_at_once(pipeline: Pipeline) -> None:
    """First word after 64 live steps, beside `ask` on the same clip, unpruned and at 10 %; medians, interleaved."""
    clip = EndlessWorld(scene_steps=64).scene(0)
    seconds: dict[str, list[float]] = {"live": [], "ask 10 %": [], "ask unpruned": []}
    for _ in range(RUNS):
        for name, retention, selector in (("ask 10 %", 0.1, "last-kept"), ("ask unpruned", 1.0, "all")):
            reply = comparison.ask(
                pipeline,
                lambda: pipeline.encode(clip.frames()),
                QUESTION,
                selector=pipeline.selector(selector),
                retention=retention,
                max_tokens=8,
            )
            seconds[name].append(reply.answer.timings.ttft)
        live = Live(pipeline, 64)
        live.first_word()
        seconds["live"].append(live.first_word())
    found = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in found.items():
        print(f"{name:14} first word after {value * 1e3:7.1f} ms, {value / found['live']:.1f}x live")
    assert found["ask unpruned"] >= 40 * found["live"]
    assert found["ask 10 %"] >= 3 * found["live"]


def test_the_first_word_comes_as_soon_after_1024_steps_as_after_64(pipeline: Pipeline) -> None:
    """Alternating is impossible with one model, so both are measured twice, in the order short, long, short, long."""
    seconds: dict[int, list[float]] = {64: [], 1024: []}
    cells = {}
    for steps in (64, 1024, 64, 1024):
        live = Live(pipeline, steps)
        cells[steps] = live.memory.used
        seconds[steps] += [live.first_word() for _ in range(31)]
    short, long = (statistics.median(values) for values in seconds.values())
    print(f"first word: {short * 1e3:.2f} ms after 64 steps ({cells[64]} cells), "
          f"{long * 1e3:.2f} ms after 1024 ({cells[1024]} cells): {long / short - 1:+.1%}")  # fmt: skip
    assert long <= 1.1 * short


def test_our_own_time_per_step_beside_the_encoder(pipeline: Pipeline) -> None:
    """Medians of 400 steps: everything but encoder and language model, as a share of the encoder."""
    live = Live(pipeline, 8)
    stages: dict[str, list[float]] = {}
    for captured in captured_steps(400):
        for stage, value in live.vision.see(captured).seconds.items():
            stages.setdefault(stage, []).append(value)
    found = {stage: statistics.median(values) for stage, values in stages.items()}
    own = sum(value for stage, value in found.items() if stage != "encode")
    shown = ", ".join(f"{stage} {value * 1e6:.0f} us" for stage, value in found.items())
    print(f"{shown}: own time {own / found['encode']:.1%} of the encoder")
    assert own < 0.25 * found["encode"]  # the aim is 0.05, which an encoder of 4 ms leaves no room for yet
