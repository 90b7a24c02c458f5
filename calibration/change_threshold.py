"""Find from footage by how much a cell must change before it is encoded again, judged by what the model makes of it.

Not by token error: tokens a fifth off answered the reference world's questions as well (docs/incremental.md).
What counts is what is kept, and the language model's next word.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.atomic import check_writable
from score_edge.bundle.folder import MANIFEST, REFERENCE, Bundle, write_manifest
from score_edge.calibration.frames import frames_of, group_steps
from score_edge.core import Float32, Mask, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.address import Address
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.vision_encoder import VisionEncoder

CANDIDATES = (0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
"""Grey levels."""
QUESTIONS = ("What is happening?", "What changed?", "How many things are there?", "What colour is it?")
STEPS = 64
"""Of a clip, at most: its frames are held while thresholds are tried."""
_PROMPT = 16
"""Steps of one prompt; the next begins in its middle."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A threshold on one clip, against encoding every cell of every step.

    Attributes:
        encoded: share of the cells that were encoded.
        error: ``||tokens - full|| / ||full||`` over the clip.
        late_error: the same over its last quarter; far above `error`, errors add up.
        agreement: share of the kept tokens that are kept both times, at the bundle's retention.
        divergence: Kullback-Leibler divergence of the word after a question, nats, mean over prompts and questions.
    """

    clip: str
    threshold: float
    steps: int
    encoded: float
    error: float
    late_error: float
    agreement: float
    divergence: float


@dataclass(frozen=True, slots=True)
class ChangeReport:
    """The largest threshold under which every clip stays within the bound; 0 where none does.

    Attributes:
        threshold: grey levels.
        bound: divergence that was allowed, nats.
        trials: every threshold on every clip.
    """

    threshold: float
    bound: float
    trials: list[Trial]


@dataclass(frozen=True, slots=True)
class Footage:
    """A clip, as (F, H, W, 3) uint8 pixels of each step and the (T, N, D) float32 tokens of full encoding."""

    name: str
    steps: list[Uint8]
    tokens: Float32


def read_footage(pipeline: Pipeline, path: str | Path, fps: float) -> Footage:
    """Read and encode a clip, at most STEPS steps of it.

    Raises:
        ScoreEdgeError: it has fewer than two.
    """
    address = Address(path)
    frames = frames_of(path, fps, STEPS * pipeline.preprocessing.frames_per_step)
    with closing(frames):
        steps = list(islice(group_steps(frames, pipeline.preprocessing), STEPS))
    if len(steps) < 2:
        raise ScoreEdgeError(f"{address} has fewer than two steps at {fps} frames per second", "give a longer clip")
    return Footage(address.name, steps, _encode(pipeline, steps, -1.0)[0])


def find_threshold(pipeline: Pipeline, footage: Sequence[Footage], bound: float = 0.05) -> ChangeReport:
    """Try all candidates on all clips.

    Args:
        pipeline: of the bundle.
        footage: at least one clip, of the place and camera the bundle will watch.
        bound: largest divergence of a clip, nats.

    Raises:
        ScoreEdgeError: there is no footage, or the bound is not positive.
    """
    if not footage or not bound > 0:
        raise ScoreEdgeError("a threshold needs footage and a bound above 0", "0.05 is a good one")
    trials = [_try(pipeline, clip, threshold) for threshold in CANDIDATES for clip in footage]
    best = 0.0
    for threshold in CANDIDATES:
        if not all(trial.divergence <= bound for trial in trials if trial.threshold == threshold):
            break
        best = threshold
    return ChangeReport(best, bound, trials)


def _encode(pipeline: Pipeline, steps: Sequence[Uint8], threshold: float) -> tuple[Float32, Mask]:
    resized, dim = pipeline.preprocessing.of_resized(), pipeline.bundle.manifest.vision.dim
    encoder = VisionEncoder(resized, dim, pipeline.vision.graph, threshold)
    state = encoder.start()
    tokens, encoded = zip(*(encoder.encode(list(step), state, Stopwatch()) for step in steps), strict=True)
    return np.stack(tokens), np.stack(encoded)


def _try(pipeline: Pipeline, clip: Footage, threshold: float) -> Trial:
    tokens, encoded = _encode(pipeline, clip.steps, threshold)
    late = len(tokens) * 3 // 4
    kept, full = (_keep(pipeline, found) for found in (tokens, clip.tokens))
    starts = range(0, max(1, len(tokens) - _PROMPT // 2), _PROMPT // 2)
    divergences = [
        _divergence(
            _next_words(pipeline, clip.tokens[prompt], full[prompt]),
            _next_words(pipeline, tokens[prompt], kept[prompt]),
        )
        for prompt in (slice(start, start + _PROMPT) for start in starts)
    ]
    return Trial(
        clip.name,
        threshold,
        len(tokens),
        float(encoded.mean()),
        _error(tokens, clip.tokens),
        _error(tokens[late:], clip.tokens[late:]),
        float((kept & full).sum() / full.sum()),
        float(np.mean(divergences)),
    )


def _error(tokens: Float32, full: Float32) -> float:
    return float(np.linalg.norm(tokens - full) / max(float(np.linalg.norm(full)), 1e-12))


def _keep(pipeline: Pipeline, tokens: Float32) -> Mask:
    return pipeline.select(tokens, pipeline.selector(), pipeline.bundle.manifest.selector.retention)


def _next_words(pipeline: Pipeline, tokens: Float32, keep: Mask) -> NDArray[np.float64]:
    """(Q, V) log-probabilities after each of QUESTIONS; where nothing is kept, the first token is seen."""
    if not keep.any():
        keep = np.arange(keep.size).reshape(keep.shape) == 0
    pipeline.watch(tokens, keep)
    rows = []
    for question in QUESTIONS:
        pipeline.prefill_question(question)
        logits = pipeline.sequence.logits().astype(np.float64)
        top = logits.max()
        rows.append(logits - top - np.log(np.exp(logits - top).sum()))
    return np.stack(rows)


def _divergence(of: NDArray[np.float64], by: NDArray[np.float64]) -> float:
    """Mean over the questions."""
    return float((np.exp(of) * (of - by)).sum(1).mean())


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
    vision = replace(bundle.manifest.vision, threshold=threshold)
    return write_manifest(bundle, replace(bundle.manifest, vision=vision))
