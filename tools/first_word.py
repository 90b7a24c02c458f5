"""How soon a stream's first word comes: after 64 steps, after 1,024, and beside `ask` on the same clip unpruned.

    python tools/first_word.py BUNDLE [--after 64 1024] [--retention 0.1] [--window 64] [--context 8192] [--json]

CPU time of one thread, medians; two streams, one of them 1,024 steps on, are asked in turn, each with a model of its
own. Every question comes after one more step, as questions do. Beside the time stands the work, which no other program
disturbs: tokens and calls of llama.cpp from the question to the first token of its answer, and the cells these attend
to. Those are counted in blocks of 256, as llama.cpp computes. A full window has more of them, and after 64 steps one of
64 is not full: steps that kept nothing do not count. `--window 40` compares full ones.

Time ends at the first token, whatever it says: models with random weights say nothing printable for some tokens, not as
many in one stream as in the other.
"""

import argparse
import contextlib
import itertools
import json
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.language import llama_sequence
from score_edge.runtime.live.memory import VideoMemory
from score_edge.runtime.live.perception import Perception
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured

QUESTION = "how many things moved fast?"
QUESTIONS = 31
ASKS = 3
CLIP = 64  # steps of the clip that `ask` takes
SCENES = 4  # of 16 steps
BLOCK = 256  # cells


def endless(pipeline: Pipeline) -> Iterator[Frame]:
    """A few scenes of the world again and again, at the bundle's rate."""
    world, fps = EndlessWorld(), pipeline.bundle.manifest.vision.fps
    images = itertools.cycle([image for scene in range(SCENES) for image in world.scene(scene).images])
    return (Frame(image, i / fps, i) for i, image in enumerate(images))


class Live:
    """Seeing and remembering without threads, so that times are of one thing each."""

    def __init__(self, pipeline: Pipeline, retention: float, window: int, cells: int) -> None:
        self.pipeline = pipeline
        self.frames, self.per_step = endless(pipeline), pipeline.bundle.manifest.vision.frames_per_step
        self.steps = 0
        self.used = deque[int](maxlen=window)  # cells after each step
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
        self.used.append(self.pipeline.sequence.here.cells)

    @property
    def attended(self) -> int:
        """Cells that a question attends to, at most: all up to the highest in use, free ones among them too."""
        asked = self.pipeline.layout.question("", QUESTION)
        cells = max(self.used) + self.pipeline.model.count(asked.before + asked.text + asked.after)
        return -(-cells // BLOCK) * BLOCK

    def first_word(self) -> float:
        """CPU seconds."""
        began = time.process_time()
        answer = self.memory.answer(QUESTION, 1)
        next(answer, "")
        seconds = time.process_time() - began
        answer.close()
        return seconds


def counted() -> list[int]:
    """Tokens of every call of llama.cpp from now on."""
    calls, decode = list[int](), llama_sequence.decode

    def noted(handle: Any, content: Any, *rest: Any) -> int:
        calls.append(len(content))
        return decode(handle, content, *rest)

    llama_sequence.decode = noted
    return calls


def unpruned(pipeline: Pipeline, steps: int) -> float:
    """CPU seconds from frames to the first word of `ask`, everything kept."""
    clip = list(itertools.islice(endless(pipeline), steps * pipeline.bundle.manifest.vision.frames_per_step))
    began = time.process_time()
    encoded = pipeline.encode(clip)
    selector = pipeline.selector("all")
    pipeline.watch(encoded.tokens, pipeline.select(encoded.tokens, selector, 1.0), encoded.times)
    next(iter(pipeline.ask(QUESTION, 1)), "")
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle")
    parser.add_argument("--after", type=int, nargs=2, default=(64, 1024), metavar="STEPS")
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(Pipeline(bundle, context=chosen.context, threads=1)) for _ in chosen.after]
        streams = [Live(each, chosen.retention, chosen.window, chosen.context - 512) for each in opened]
        for stream, steps in zip(streams, chosen.after, strict=True):
            while stream.steps < steps:
                stream.step()
        seconds, tokens, made, held, attended = ([list[float](), list[float]()] for _ in range(5))
        calls = counted()
        for _ in range(QUESTIONS):
            for age, stream in enumerate(streams):
                stream.step()
                calls.clear()
                seconds[age].append(stream.first_word())
                tokens[age].append(sum(calls))
                made[age].append(len(calls))
                held[age].append(stream.memory.steps)
                attended[age].append(stream.attended)
        whole = 1e3 * statistics.median(unpruned(opened[0], CLIP) for _ in range(ASKS))
    words, steps, cells = ([statistics.median(each) for each in both] for both in (seconds, held, attended))
    words = [1e3 * word for word in words]
    work, times = ([max(each) for each in both] for both in (tokens, made))
    if chosen.json:
        found = {"first_word_ms": words, "held": steps, "attended": cells, "tokens": work, "calls": times}
        print(json.dumps({**found, "unpruned_ms": whole}))
        return
    for each in zip(words, chosen.after, work, times, steps, cells, strict=True):
        print(
            "first word {:.2f} ms after {} steps: {} tokens in {} calls, {:.0f} steps held, {:.0f} cells".format(*each)
        )
    print(f"{words[1] / words[0] - 1:+.1%}; ask unpruned {whole:.1f} ms, {whole / words[1]:.0f}x")


if __name__ == "__main__":
    main()
