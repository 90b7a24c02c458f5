"""Find the encoder gate's threshold from footage, so that reused tokens stay within a bound of fresh ones."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from score_edge.bundle.atomic import check_writable
from score_edge.bundle.folder import MANIFEST, REFERENCE, Bundle, write_manifest
from score_edge.calibration.frames import frames_of, group_steps
from score_edge.core import Float32, Grid, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.live.gate import pixel_change
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.address import Address

CANDIDATES = 48
MAX_STEPS = 400
"""Per clip: what is held in memory while thresholds are tried."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """What a threshold does on one clip.

    Attributes:
        skipped: steps whose tokens were reused.
        error: mean over the reused steps of ``||reused - fresh|| / ||fresh||``; 0 where none was.
        worst_step: the same of the worst reused step.
        worst_token: of the worst single token of any reused step.
    """

    clip: str
    steps: int
    skipped: int
    error: float
    worst_step: float
    worst_token: float


@dataclass(frozen=True, slots=True)
class GateReport:
    """The largest threshold that keeps every reused step of the footage within the bound.

    Attributes:
        threshold: grey levels, see `runtime.gate.EncoderGate`.
        bound: relative token error asked for.
        clips: what it does on each clip.
    """

    threshold: float
    bound: float
    clips: list[Reuse]


@dataclass(frozen=True, slots=True)
class EncodedFootage:
    """One clip, encoded without a gate: (T, F, H, W, 3) uint8 pixels and their (T, N, D) float32 tokens."""

    name: str
    pixels: Uint8
    tokens: Float32
    grid: Grid


def read_footage(pipeline: Pipeline, path: str | Path, fps: float) -> EncodedFootage:
    """Read and encode a clip, at most MAX_STEPS steps of it."""
    preprocessing, vision = pipeline.preprocessing, pipeline.bundle.manifest.vision
    address = Address(path)
    frames = frames_of(path, fps, MAX_STEPS * vision.frames_per_step)
    with closing(frames):
        pixels = list(islice(group_steps(frames, preprocessing), MAX_STEPS))
    tokens = [pipeline.encoder.run(**preprocessing.encoder_input(step))["tokens"] for step in pixels]
    if len(pixels) < 2:
        raise ScoreEdgeError(f"{address} has fewer than two steps at {fps} frames per second", "give a longer clip")
    return EncodedFootage(address.name, np.stack(pixels), np.stack(tokens), vision.token_grid)


def find_threshold(footage: Sequence[EncodedFootage], bound: float = 0.01) -> GateReport:
    """Try thresholds from 0 upwards until a reused step leaves the bound.

    The error of a step is relative and over all its tokens; the report shows the worst single token beside it.

    Args:
        footage: at least one clip, of the place and camera the bundle will watch.
        bound: largest relative error of a reused step.

    Raises:
        ScoreEdgeError: there is no footage, or the bound is not positive.
    """
    if not footage or not bound > 0:
        raise ScoreEdgeError("a gate threshold needs footage and a bound above 0", "0.01 allows 1 % of token error")
    changes = {
        pixel_change(clip.pixels[t], clip.pixels[t - 1], clip.grid)
        for clip in footage
        for t in range(1, len(clip.pixels))
    }
    candidates = np.unique(np.quantile(sorted(changes), np.linspace(0, 1, CANDIDATES)))
    best = GateReport(0.0, bound, [replay(clip, 0.0) for clip in footage])
    for threshold in candidates:
        tried = [replay(clip, float(threshold)) for clip in footage]
        if max(clip.worst_step for clip in tried) > bound:
            break
        best = GateReport(float(threshold), bound, tried)
    return best


def replay(clip: EncodedFootage, threshold: float) -> Reuse:
    """What a threshold would have done on a clip."""
    last, steps, worst_token = 0, [], 0.0
    for t in range(1, len(clip.pixels)):
        if pixel_change(clip.pixels[t], clip.pixels[last], clip.grid) > threshold:
            last = t
            continue
        difference = np.linalg.norm(clip.tokens[last] - clip.tokens[t], axis=1)
        fresh = np.maximum(np.linalg.norm(clip.tokens[t], axis=1), 1e-12)
        steps.append(float(np.linalg.norm(difference) / np.linalg.norm(fresh)))
        worst_token = max(worst_token, float((difference / fresh).max()))
    error, worst = (float(np.mean(steps)), max(steps)) if steps else (0.0, 0.0)
    return Reuse(clip.name, len(clip.pixels), len(steps), error, worst, worst_token)


def check_saving(bundle: Bundle) -> None:
    """Refuse a bundle that no threshold can be written into; whoever encodes footage first asks before.

    Raises:
        ScoreEdgeError: it is the shipped one, or may not be written.
    """
    if bundle.folder.resolve() == REFERENCE.resolve():
        raise ScoreEdgeError(
            "the shipped bundle stays as it is", f"copy {REFERENCE} and write the threshold into the copy"
        )
    if (bundle.folder / MANIFEST).is_symlink():  # in a Hugging Face cache, which names a file by its content
        raise ScoreEdgeError(f"{bundle.folder / MANIFEST} is a link", f"copy the bundle: cp -rL {bundle.folder} COPY")
    check_writable(bundle.folder / MANIFEST)


def save_threshold(bundle: Bundle, threshold: float) -> Bundle:
    """Write this threshold into a bundle's bundle.json; no other file is touched.

    Raises:
        ScoreEdgeError: the bundle cannot be written, or is the shipped one.
    """
    check_saving(bundle)
    vision = replace(bundle.manifest.vision, gate=threshold)
    return write_manifest(bundle, replace(bundle.manifest, vision=vision))
