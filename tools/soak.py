"""Thousands of steps through a stream of any bundle: does memory stay, does a step take as long at the end as before?

    python tools/soak.py BUNDLE [--steps 5000] [--window 16] [--retention 0.25] [--context 2048] [--json]

Frames of the reference world come in lockstep: the next step when the one before is remembered and its question, one
every 50 steps, is answered. So the CPU time between two steps is that of one step, also on a busy machine. Figures are
of windows of 500 steps, the first of which is left out.
"""

import argparse
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.folder import Bundle
from score_edge.core import Frame
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.live.events import Answered, Event, Notice, StepSeen
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import Source

Values: TypeAlias = NDArray[np.float64]
QUESTION = "how many things moved fast?"
ASKED_EVERY = 50
SCENES = 4
PATIENCE_S = 60


class Lockstep(Source):
    """A few scenes of the world again and again, a step whenever it is let go."""

    def __init__(self, steps: int, per_step: int, fps: float) -> None:
        world = EndlessWorld()
        self._images = [image for scene in range(SCENES) for image in world.scene(scene).images]
        self._frames, self._per_step, self._fps = steps * per_step, per_step, fps
        self.go_on = threading.Semaphore(1)

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """See `Source.read`."""
        images = itertools.cycle(self._images)
        for index in range(self._frames):
            if index % self._per_step == 0 and not self.go_on.acquire(timeout=PATIENCE_S):
                return
            if due(index / self._fps):
                yield Frame(next(images), index / self._fps, index)


class Record:
    """What each step cost, and what there was after it."""

    def __init__(self, source: Lockstep, steps: int) -> None:
        self.source = source
        self.stream: Stream | None = None
        self.steps = self.answers = 0
        # Filled, so that what is measured does not grow by being measured.
        self.cpu_s, self.resident, self.used = (np.full(steps, -1.0) for _ in range(3))
        self.complaints: list[str] = []
        self._since = time.process_time()

    def __call__(self, event: Event) -> None:
        """Note what happened and let the next step go."""
        if isinstance(event, StepSeen):
            self.cpu_s[self.steps] = time.process_time() - self._since
            self.resident[self.steps], self.used[self.steps] = resident_bytes() / 1e6, event.used
            self.steps += 1
            if event.step % ASKED_EVERY == ASKED_EVERY - 1:
                assert self.stream is not None
                self.stream.ask(QUESTION)
                return
        elif isinstance(event, Answered):
            self.answers += 1
            self.complaints += [event.error] if event.error else []
        elif isinstance(event, Notice):
            self.complaints.append(event.text)
        else:
            return
        self._since = time.process_time()
        self.source.go_on.release()


def resident_bytes() -> int:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def windows(values: Values, size: int) -> list[Values]:
    """All but the first."""
    return [values[at : at + size] for at in range(size, len(values) - size + 1, size)]


def halves(values: list[float]) -> tuple[float, float]:
    """Medians of the first half and of the second."""
    middle = len(values) // 2
    return statistics.median(values[:middle]), statistics.median(values[-middle:])


def main() -> None:
    """Watch and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--retention", type=float, default=0.25)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    vision, size = bundle.manifest.vision, min(500, chosen.steps // 5)
    source = Lockstep(chosen.steps, vision.frames_per_step, vision.fps)
    record = Record(source, chosen.steps)
    options = StreamOptions(selector="last-kept", retention=chosen.retention, window=chosen.window, max_tokens=8)
    with Pipeline(bundle, context=chosen.context, threads=1) as pipeline:
        record.stream = Stream(pipeline, source, options, [record])
        record.stream.run()
        rebased, cells = record.stream.memory.rebased, record.stream.memory.cells
    seen = record.steps
    first, last = halves([1e3 * float(np.percentile(part, 99)) for part in windows(record.cpu_s[:seen], size)])
    resident = [round(float(np.median(part)), 2) for part in windows(record.resident[:seen], size)]
    most, p50 = int(record.used.max()), 1e3 * float(np.median(record.cpu_s[size:seen]))
    if chosen.json:
        found = {
            "steps": seen,
            "answers": record.answers,
            "complaints": record.complaints[:5],
            "p50_ms": p50,
            "p99_ms": [first, last],
            "resident_mb": resident,
            "most_used": most,
            "cells": cells,
            "rebased": rebased,
        }
        print(json.dumps(found))
        return
    print(
        f"{seen} steps, {record.answers} answers, {len(record.complaints)} complaints; CPU per step p50 {p50:.2f} ms, "
        f"p99 {first:.2f} then {last:.2f} ms ({last / first - 1:+.1%}); resident MB {resident}; at most {most} of "
        f"{cells} cells, re-based {rebased} times"
    )


if __name__ == "__main__":
    main()
