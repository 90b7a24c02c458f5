"""What is profiled: a bundle on a clip, or a language model of a known shape on random visual tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.bundle.manifest import Prompt
from score_edge.core import Float32, Frame, Grid, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.llm_shapes import LlmShape, random_rows
from score_edge.profiling.spans import Spans
from score_edge.runtime.language.base import LanguageModel, Sequence
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.open_source import sample_clip
from score_edge.selection.registry import Selector, get_selector
from score_edge.selection.score import KeepProbability

SYNTHETIC = "synthetic"
_POLICY_HIDDEN = 64
_ROWS = 256  # per product, so that what is in between stays in the cache, as in a runtime with an arena
QUESTION = "what moved?"


class Workload(Protocol):
    """Something whose every stage can be run and timed."""

    model: LanguageModel
    sequence: Sequence
    layout: Layout
    frames: int
    encoded: Mask | None
    """(T, N) bool, the cells that were encoded of the clip; None where there is no encoder."""
    encoder_cache: int | None
    """Bytes of keys and values that the encoder keeps for a source; None where it keeps none."""

    def tokens(self, spans: Spans) -> tuple[Float32, list[float]]:
        """(T, N, D) float32 and T times, read and encoded anew, timed as read, preprocess and encode."""
        ...

    def selector(self, name: str | None, spans: Spans) -> Selector:
        """A selector whose policy, where it has one, is timed as policy."""
        ...


class BundleWorkload:
    """A bundle's own encoder, selector and language model.

    Args:
        pipeline: opened.
        source: of the clip, or "synthetic": a rendered one, which costs no reading.
        steps: encoder steps at most.

    Raises:
        ScoreEdgeError: the source cannot be read.
    """

    def __init__(self, pipeline: Pipeline, source: str, steps: int) -> None:
        self._pipeline = pipeline
        self._source = source
        self._bundle = pipeline.bundle
        vision = self._bundle.manifest.vision
        self._limit = steps * vision.frames_per_step
        self._held = _rendered(self._limit) if source == SYNTHETIC else []
        if source != SYNTHETIC and Address(source).once:  # every run needs it anew
            self._held = list(sample_clip(source, vision.fps, self._limit))
        self.model, self.sequence, self.layout = pipeline.model, pipeline.sequence, pipeline.layout
        self.frames = 0
        self.encoded: Mask | None = None
        incremental = vision.incremental if pipeline.vision.incremental else None
        self.encoder_cache = None if incremental is None else incremental.bytes_per_source

    def _read(self) -> Iterator[Frame]:  # a generator, so that the pipeline times the reading
        if self._held:
            yield from self._held
        else:
            yield from sample_clip(self._source, self._bundle.manifest.vision.fps, self._limit)

    def tokens(self, spans: Spans) -> tuple[Float32, list[float]]:
        """Read and encode the clip."""
        count = 0

        def counted() -> Iterator[Frame]:
            nonlocal count
            for frame in self._read():
                count += 1
                yield frame

        clip = self._pipeline.encode(counted(), spans)
        self.frames, self.encoded = count, clip.encoded
        return clip.tokens, clip.times

    def selector(self, name: str | None, spans: Spans) -> Selector:
        """The bundle's own when no name is given."""
        policy = self._pipeline.policy
        return self._pipeline.selector(name, policy=policy and _timed(policy, spans))


class ShapeWorkload:
    """A language model of a shape, random weights, on random visual tokens; there is no encoder.

    Args:
        model: opened on the file of the shape.
        shape: which.
        steps: of the clip.
        per_step: visual tokens of each, see `tokens_per_step`.
    """

    frames = 0
    encoded: Mask | None = None
    encoder_cache: int | None = None

    def __init__(self, model: LanguageModel, shape: LlmShape, steps: int, per_step: int) -> None:
        self.model, self.sequence = model, model.sequence()
        height = max(h for h in range(1, int(per_step**0.5) + 1) if per_step % h == 0)
        self.layout = Layout(Prompt("user: ", "{question}"), Grid(height, per_step // height))
        self._rows = random_rows(shape, steps, per_step)
        self._shape = shape

    def tokens(self, spans: Spans) -> tuple[Float32, list[float]]:
        """The same random rows every time: nothing is read and nothing encoded."""
        return self._rows, list(map(float, range(len(self._rows))))

    def selector(self, name: str | None, spans: Spans) -> Selector:
        """`score` with a random policy of the usual size when no name is given."""
        rng = np.random.default_rng(1)
        first = rng.standard_normal((2 * self._shape.width, _POLICY_HIDDEN), np.float32)
        first *= np.float32(len(first) ** -0.5)
        second = rng.standard_normal(_POLICY_HIDDEN, np.float32)

        def policy(tokens: Float32, previous: Float32) -> Float32:
            keep = np.empty(len(tokens), np.float32)
            with spans.stage("policy"):
                for start in range(0, len(tokens), _ROWS):
                    part = slice(start, start + _ROWS)
                    state = np.concatenate([tokens[part], tokens[part] - previous[part]], axis=1)
                    keep[part] = 1 / (1 + np.exp(-(np.maximum(state @ first, 0) @ second)))
            return keep

        return get_selector(name or "score", policy=policy, grid=self.layout.grid)


def tokens_per_step(visual_tokens: int, steps: int) -> int:
    """Into how many a clip's tokens are cut.

    Raises:
        ScoreEdgeError: they do not fill the steps evenly.
    """
    per_step, rest = divmod(visual_tokens, steps)
    if rest or not per_step:
        raise ScoreEdgeError(
            f"{visual_tokens} visual tokens do not fill {steps} steps evenly", "--steps must divide --visual-tokens"
        )
    return per_step


def _timed(policy: KeepProbability, spans: Spans) -> KeepProbability:
    def timed(tokens: Float32, previous: Float32) -> Float32:
        with spans.stage("policy"):
            return policy(tokens, previous)

    return timed


def _rendered(frames: int) -> list[Frame]:
    from score_edge.reference import world

    steps = max(3, -(-frames // world.FRAMES_PER_STEP))  # the world's clips have at least three
    return world.make_clip(world.TEST_SEED, 0, steps).frames()[:frames]


def bundle_hashes(bundle: Bundle) -> dict[str, str]:
    """The start of the checksum of every file; of a language model elsewhere its size stands in."""
    hashes = {where: ref.sha256[:12] for where, ref in bundle.manifest.files.items()}
    path: Path = bundle.gguf_path
    if bundle.manifest.language.gguf is None:
        hashes["language.path"] = f"{path.name}, {path.stat().st_size} bytes"
    return hashes
