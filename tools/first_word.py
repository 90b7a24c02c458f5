"""How soon a stream's first word comes: after 64 steps, after 1,024, and beside `ask` on the same clip unpruned.

    python tools/first_word.py BUNDLE [--retention 0.1] [--window 64] [--context 8192] [--threads 1] [--json]

CPU time of one thread, medians; two streams, one of them 1,024 steps on, are asked in turn, each with a model of its
own. Every question comes after one more step, as questions do: where the text in front names the number of steps or the
time (SmolVLM2) that prefills the window again.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Iterator

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.perception import Perception
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured

QUESTION = "how many things moved fast?"
AFTER = (64, 1024)
QUESTIONS = 31
ASKS = 3
SCENES = 4  # of 16 steps


def endless(pipeline: Pipeline) -> Iterator[Frame]:
    """A few scenes of the world again and again, at the bundle's rate."""
    world, fps = EndlessWorld(), pipeline.bundle.manifest.vision.fps
    images = itertools.cycle([image for scene in range(SCENES) for image in world.scene(scene).images])
    return (Frame(image, i / fps, i) for i, image in enumerate(images))


class Live:
    """Seeing and remembering without threads, so that times are of one thing each."""

    def __init__(self, pipeline: Pipeline, retention: float, window: int, cells: int) -> None:
        self.frames, self.per_step = endless(pipeline), pipeline.bundle.manifest.vision.frames_per_step
        self.steps = 0
        self.perception = Perception(pipeline, "last-kept", retention)
        trained = pipeline.bundle.manifest.language.trained
        self.memory = VideoMemory(
            pipeline.model, pipeline.sequence, pipeline.layout, cells=cells, window=window, trained=trained
        )

    def step(self) -> None:
        """See and remember one more."""
        seen = self.perception.see(Captured(list(itertools.islice(self.frames, self.per_step)), False, 0.0))
        self.memory.append(seen.tokens, seen.keep, seen.scores, seen.captured.time_s)
        self.steps += 1

    def first_word(self) -> float:
        """CPU seconds."""
        began = time.process_time()
        answer = self.memory.answer(QUESTION, 8)
        next(answer, "")
        seconds = time.process_time() - began
        answer.close()
        return seconds


def unpruned(pipeline: Pipeline, steps: int) -> float:
    """CPU seconds from frames to the first word of `ask`, everything kept."""
    clip = list(itertools.islice(endless(pipeline), steps * pipeline.bundle.manifest.vision.frames_per_step))
    began = time.process_time()
    encoded = pipeline.encode(clip)
    selector = pipeline.selector("all")
    pipeline.watch(encoded.tokens, pipeline.select(encoded.tokens, selector, 1.0), encoded.times)
    next(iter(pipeline.ask(QUESTION, 8)), "")
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle")
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Pipeline(bundle, context=chosen.context, threads=chosen.threads)) for _ in AFTER]
        streams = [Live(each, chosen.retention, chosen.window, chosen.context - 512) for each in opened]
        for stream, steps in zip(streams, AFTER, strict=True):
            while stream.steps < steps:
                stream.step()
        seconds: list[list[float]] = [[], []]
        used: list[list[int]] = [[], []]
        for _ in range(QUESTIONS):
            for stream, words, cells in zip(streams, seconds, used, strict=True):
                stream.step()
                words.append(stream.first_word())
                cells.append(stream.memory.used)
        whole = statistics.median(unpruned(opened[0], AFTER[0]) for _ in range(ASKS))
    short, long = map(statistics.median, seconds)
    held = [round(statistics.median(cells)) for cells in used]
    if chosen.json:
        found = {"first_word_ms": [1e3 * short, 1e3 * long], "cells": held, "unpruned_ms": 1e3 * whole}
        print(json.dumps(found))
        return
    print(
        f"first word {1e3 * short:.2f} ms after {AFTER[0]} steps ({held[0]} cells), {1e3 * long:.2f} ms after "
        f"{AFTER[1]} ({held[1]} cells): {long / short - 1:+.1%}; ask unpruned {1e3 * whole:.1f} ms, {whole / long:.0f}x"
    )


if __name__ == "__main__":
    main()
