"""Whether the tokens of an encoder that encodes only what changed drift away from full encoding as a stream goes on.

python tools/incremental_soak.py --steps 20000
python tools/incremental_soak.py --source site.mp4 --steps 5000    # a file is read again and again, a cut each time
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from soak import resident_bytes

from score_edge.bundle.folder import Bundle
from score_edge.calibration.frames import group_steps
from score_edge.core import Uint8
from score_edge.runtime.graphs.open_graph import open_graph
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.base import sample
from score_edge.runtime.sources.open_source import open_source
from score_edge.runtime.stopwatch import Stopwatch

PARTS = 10


def endlessly(source: str, pipeline: Pipeline) -> Iterator[Uint8]:
    """(F, H, W, 3) steps of a source; one that ends is opened again."""
    while True:
        with open_source(source) as opened:
            yield from group_steps(sample(opened, pipeline.bundle.manifest.vision.fps), pipeline.preprocessing)


def main() -> None:
    """Encode, and compare every few steps with the plain graph."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--source", default="synthetic://?scene=500")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--every", type=int, default=20, help="steps between two comparisons")
    chosen = parser.parse_args()
    bundle = Bundle.open(chosen.bundle)
    with Pipeline(bundle, threads=1) as pipeline:
        plain, _ = open_graph(bundle, "encoder", "cpu", threads=1)
        state, steps = pipeline.vision.start(), endlessly(chosen.source, pipeline)
        slopes = []
        print("steps        cells encoded   whole   error of tokens   ms per step p50 / p99   resident MB")
        for part in range(PARTS):
            shares, errors, seconds = [], [], []
            for number in range(chosen.steps // PARTS):
                pixels = next(steps)
                began = time.perf_counter()
                tokens, encoded = pipeline.vision.encode(list(pixels), state, Stopwatch())
                seconds.append(time.perf_counter() - began)
                shares.append(encoded.mean())
                if number % chosen.every == 0:
                    full = plain.run(**pipeline.preprocessing.encoder_input(pixels))["tokens"]
                    errors.append(float(np.linalg.norm(tokens - full) / np.linalg.norm(full)))
            slopes.append(float(np.mean(errors)))
            first, last = part * chosen.steps // PARTS, (part + 1) * chosen.steps // PARTS
            p50, p99 = 1e3 * np.percentile(seconds, 50), 1e3 * np.percentile(seconds, 99)
            print(
                f"{first:6d}-{last:6d} {np.mean(shares):12.1%} {np.mean(np.array(shares) == 1):8.1%}"
                f" {np.mean(errors):12.2%} {p50:16.1f} / {p99:.1f} {resident_bytes() / 1e6:16.0f}"
            )
        half = PARTS // 2
        print(f"error, second half over first: {np.mean(slopes[half:]) / np.mean(slopes[:half]):.2f}")


if __name__ == "__main__":
    main()
