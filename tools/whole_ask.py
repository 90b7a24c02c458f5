"""A whole answer from a video file, and a live stream: unpruned, pruned, and pruned with only what changed encoded.

python tools/whole_ask.py site.mp4 --bundle reference
python tools/whole_ask.py site.mp4 --bundle siglip --runs 3     # SigLIP-base and SmolLM2-360M with random weights
python tools/whole_ask.py site.mp4 --live                       # steps per second, with and without
"""

import argparse
import statistics
import time
from pathlib import Path

from siglip_bundle import siglip_bundle

from score_edge.bundle.folder import Bundle
from score_edge.evaluation.comparison import clip_reader
from score_edge.runtime.live.events import StepSeen
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.live.stream import Stream
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import open_source

STAGES = ("read", "preprocess", "encode", "select", "prefill", "generate", "whole")
QUESTION, ANSWER = "what moved?", 8


def ask(pipelines: dict[str, Pipeline], video: str, steps: int, runs: int) -> None:
    """In turns; medians of each stage."""
    variants = {
        "unpruned, all cells": ("all cells", "all", 1.0),
        "10 %, all cells": ("all cells", None, 0.1),
        "10 %, what changed": ("what changed", None, 0.1),
    }
    spent: dict[str, dict[str, list[float]]] = {name: {stage: [] for stage in STAGES} for name in variants}
    for run in range(runs + 1):  # the first warms up
        for name, (which, selector, retention) in variants.items():
            pipeline = pipelines[which]
            began = time.perf_counter()
            clip = clip_reader(pipeline, video, steps)()
            chosen = pipeline.selector(selector)
            answer, _ = pipeline.answer(clip, QUESTION, selector=chosen, retention=retention, max_tokens=ANSWER)
            whole = time.perf_counter() - began
            if run:
                for stage in STAGES[:-1]:
                    spent[name][stage].append(getattr(answer.timings, stage))
                spent[name]["whole"].append(whole)
            if which == "what changed":
                share = float(clip.encoded.mean())
    print(f"{Path(video).name}: {share:.0%} of the cells encoded; milliseconds, medians of {runs} in turns")
    print(" " * 22 + "".join(f"{stage:>12}" for stage in STAGES))
    for name, stages in spent.items():
        print(f"{name:22}" + "".join(f"{1e3 * statistics.median(stages[stage]):12.0f}" for stage in STAGES))
    whole = {name: statistics.median(stages["whole"]) for name, stages in spent.items()}
    first, *_, last = whole.values()
    print(f"unpruned over pruned with what changed: {first / last:.2f}x")


def live(pipelines: dict[str, Pipeline], video: str, runs: int, most: int) -> None:
    """Steps per second of a stream that takes them as fast as it can; in turns."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(runs):
        for name, pipeline in pipelines.items():
            times: list[float] = []
            with open_source(video) as source:
                stream = Stream(pipeline, source, StreamOptions())

                def note(event: object, times: list[float] = times, stream: Stream = stream) -> None:
                    if isinstance(event, StepSeen):
                        times.append(time.perf_counter())
                        if len(times) > most:
                            stream.stop()

                stream.listen(note)
                stream.run()
            rates[name].append((len(times) - 1) / (times[-1] - times[0]))
    for name, found in rates.items():
        print(f"{Path(video).name}, {name}: {statistics.median(found):.2f} steps per second, median of {runs}")


def main() -> None:
    """Measure on this machine, alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--bundle", default="reference", help="a folder, or 'siglip'")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--live", action="store_true")
    chosen = parser.parse_args()
    folder = siglip_bundle(Path("build/siglip-bundle")) if chosen.bundle == "siglip" else chosen.bundle
    bundle = Bundle.open(folder)
    with (
        Pipeline(bundle, full_encoder=True) as full,
        Pipeline(bundle) as changed,
    ):
        pipelines = {"all cells": full, "what changed": changed}
        if chosen.live:
            live(pipelines, chosen.video, chosen.runs, chosen.steps)
        else:
            ask(pipelines, chosen.video, chosen.steps, chosen.runs)


if __name__ == "__main__":
    main()
