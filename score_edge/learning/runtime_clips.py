"""Worker processes that make clips as the runtime sees them: encoded whole and incrementally, ranked by selectors."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.learning.rank_farm import RULES, ranked
from score_edge.learning.world_data import Prompts
from score_edge.reference import world
from score_edge.reference.clip_farm import Rendered, Wanted
from score_edge.reference.labels import label
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.graphs.open_graph import open_policy, open_query
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.vision_encoder import VisionEncoder
from score_edge.selection.base import Selector
from score_edge.selection.registry import get_selector
from score_edge.workers import worker_pool

LEARNED = ("score:dither=0.5", "score:dither=1")
"""Selectors that rank a clip: RULES, and behind them these."""
_AHEAD = 3  # clips per worker that are made or wait for it


@dataclass(frozen=True, slots=True)
class RuntimeClip:
    """A clip of the world as the runtime sees it, encoded as a whole [0] and incrementally [1].

    Attributes:
        rendered: without images.
        tokens: (2, T, N, D) float16.
        ranks: (2, selectors, budgets, T * N) int16, see `rank_farm.ranked`.
        queried: (2, questions, T * N) int16, the same of ``score-query`` for each question, at every budget.
    """

    rendered: Rendered
    tokens: NDArray[np.float16]
    ranks: NDArray[np.int16]
    queried: NDArray[np.int16]


class RuntimeClips:
    """Makes clips, in order, ahead of whoever takes them.

    Args:
        bundle: of the reference model, with a policy and one that knows the question.
        wanted: clips, possibly without end.
        shares: budgets of the ranks.
        least: tokens that a clip keeps at least.
        words: (V, D) float32, the language model's row of each text token.
        workers: processes.
    """

    def __init__(
        self, bundle: str, wanted: Iterable[Wanted], shares: tuple[float, ...], least: int, words: Float32, workers: int
    ) -> None:
        self._wanted = iter(wanted)
        self._pool = worker_pool(workers, _open, bundle, shares, least, words)
        self._jobs: deque[Future[RuntimeClip]] = deque()
        self._order(_AHEAD * workers)

    def __enter__(self) -> "RuntimeClips":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[RuntimeClip]:
        """Every clip, waiting for it if need be."""
        while self._jobs:
            yield self._take()

    def finished(self) -> Iterator[RuntimeClip]:
        """Clips that are ready, without waiting."""
        while self._jobs and self._jobs[0].done():
            yield self._take()

    def _take(self) -> RuntimeClip:
        made = self._jobs.popleft().result()
        self._order(1)
        return made

    def _order(self, count: int) -> None:
        self._jobs += [self._pool.submit(_make, wanted) for wanted in itertools.islice(self._wanted, count)]


class _Maker:
    def __init__(self, bundle: str, shares: tuple[float, ...], least: int, words: Float32) -> None:
        opened = Bundle.open(bundle)
        vision = opened.manifest.vision
        policy = open_policy(opened, "cpu", threads=1)
        if policy is None or opened.incremental_path is None:
            raise ScoreEdgeError(f"{bundle} has no policy or no incremental graph")
        self._encoders = [
            VisionEncoder(Preprocessing.of(vision), vision.dim, OnnxGraph(path, threads=1), threshold)
            for path, threshold in ((opened.encoder_path, -1.0), (opened.incremental_path, vision.change_threshold))
        ]
        self._selectors = [get_selector(name, policy=policy) for name in (*RULES, *LEARNED)]
        self._query, self._words, self._prompts = open_query(opened, threads=1), words, Prompts()
        self._shares, self._least = shares, least

    def make(self, wanted: Wanted) -> RuntimeClip:
        clip = world.make_clip(wanted.seed, wanted.index, wanted.steps, wanted.regime)
        images = clip.images.reshape(wanted.steps, world.FRAMES_PER_STEP, *clip.images.shape[1:])
        tokens = np.stack([_encoded(encoder, images) for encoder in self._encoders])
        counts = [max(self._least, int(tokens[0, ..., 0].size * share)) for share in self._shares]
        bits = [question.evidence.astype(np.uint8) << q for q, question in enumerate(clip.questions)]
        asked = tuple((question.text, question.answer, question.kind) for question in clip.questions)
        rendered = Rendered(wanted, np.empty(0, np.uint8), label(clip), np.bitwise_or.reduce(bits), asked)
        by_question = [self._for_question(text) for text, _, _ in asked]
        return RuntimeClip(
            rendered,
            tokens.astype(np.float16),
            np.stack([ranked(self._selectors, each, counts) for each in tokens]),
            np.stack([ranked(by_question, each, counts[:1])[:, 0] for each in tokens]),
        )

    def _for_question(self, text: str) -> Selector:
        before, behind = self._prompts.ids_around()
        ids = self._prompts.after(text)
        words = self._words[ids[before : len(ids) - behind]].mean(axis=0, keepdims=True)

        def keep_probability(tokens: Float32, previous: Float32, background: Float32) -> Float32:
            return self._query(tokens, previous, background, words)

        return get_selector("score-query", policy=keep_probability)


def _encoded(encoder: VisionEncoder, images: Uint8) -> Float32:
    """(T, N, D) float32 tokens of a clip."""
    state = encoder.start()
    return np.stack([encoder.encode(list(step), state, Stopwatch())[0] for step in images])


_maker: _Maker


def _open(bundle: str, shares: tuple[float, ...], least: int, words: Float32) -> None:
    global _maker
    _maker = _Maker(bundle, shares, least, words)


def _make(wanted: Wanted) -> RuntimeClip:
    return _maker.make(wanted)
