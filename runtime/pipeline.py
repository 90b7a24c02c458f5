"""The loop: frames -> encode -> select -> prefill -> answer. Every arrow of docs/architecture.md is a call here."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import Answer, Float32, Frame, KeptTokens, Look, Mask, Timings
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graphs.base import Graph
from score_edge.runtime.graphs.engine_files import read_records
from score_edge.runtime.graphs.open_graph import Provider, open_graph, open_policy, open_query
from score_edge.runtime.language.backends import DEFAULT, open_language_model
from score_edge.runtime.language.base import LanguageModel, Mark
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.language.sampling import GREEDY, Sampling
from score_edge.runtime.overlay import thumbnail
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.threads import check_threads
from score_edge.runtime.vision_encoder import VisionEncoder
from score_edge.selection.budget import clip_top_k, token_count
from score_edge.selection.registry import Selector, get_selector, knows_question
from score_edge.selection.score import KeepProbability, QueryPolicy

MORE = 4  # times as many tokens at the next look


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """Every visual token of a clip.

    Attributes:
        tokens: (T, N, D) float32.
        encoded: (T, N) bool, the cells that were encoded; the tokens of the others are those of the step before.
        frames: the newest frame of each step, T of them, as thumbnails for pictures.
        seconds: per stage: read, preprocess, encode.
        times: seconds from the start of the source to the middle of each step.
    """

    tokens: Float32
    encoded: Mask
    frames: list[Frame]
    seconds: dict[str, float]
    times: list[float]


class Pipeline:
    """A bundle with everything opened that an answer needs.

    Args:
        bundle: a validated bundle.
        context: cells of the language model's KV cache; None takes the bundle's.
        threads: CPU threads of the encoder and of the language model; None lets each decide.
        backend: what runs the language model, see `open_language_model`.
        sequences: how many the language model has places for; `sequence` is one of them.
        model: a language model that is open already, in its place; closed with the pipeline.
        provider: what runs encoder and policy, see `open_graph`.
        full_encoder: encode every cell of every step, by the plain graph.
        threshold: grey levels that a cell must change by to be encoded, see `VisionEncoder`; None takes the bundle's.

    Attributes:
        encoder: the graph of the vision encoder; `vision` runs it.
        vision: frames to tokens.
        layout: how a clip becomes a prompt.
        sequence: of the language model, for `watch` and `ask`.
        turn: taken by each thread while it runs a graph or the language model.
        skipped_providers: by provider, why it does not run the encoder.

    Raises:
        ScoreEdgeError: a graph does not fit the bundle's manifest, a backend is missing, or there are more threads than
            CPUs.

    Example:
        >>> with Pipeline(Bundle.open("reference")) as pipeline:  # doctest: +SKIP
        ...     clip = pipeline.encode(sample_clip("clip.mp4", fps=4, max_frames=128))
        ...     keep = pipeline.select(clip.tokens, pipeline.selector("score"), retention=0.1)
        ...     pipeline.watch(clip.tokens, keep)
        ...     print("".join(pipeline.ask("what moved?")))
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        context: int | None = None,
        threads: int | None = None,
        backend: str = DEFAULT,
        sequences: int = 1,
        model: LanguageModel | None = None,
        provider: Provider = "auto",
        full_encoder: bool = False,
        threshold: float | None = None,
    ) -> None:
        check_threads(threads)
        self.bundle = bundle
        vision = bundle.manifest.vision
        self.preprocessing = Preprocessing.of(vision)
        newline = None if bundle.newline_path is None else _read_rows(bundle.newline_path, vision.dim)
        self.layout = Layout.of(bundle.manifest, newline)
        self._provider, self._threads = provider, threads
        whole = full_encoder or vision.incremental is None
        self.encoder, self.skipped_providers = _open_encoder(bundle, whole, provider, threads)
        self.model = model or open_language_model(
            bundle, backend, context=context, sequences=sequences, threads=threads
        )
        self.turn = self.model.turn
        least = -1.0 if full_encoder else vision.change_threshold if threshold is None else threshold
        self.vision = VisionEncoder(self.preprocessing, vision.dim, self.encoder, least, self.turn)
        self.sequence = self.model.sequence()
        self._video: Mark | None = None
        self._tail = ""  # text of the clip that is tokenised with the question

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *exception: object) -> None:
        self.model.close()

    def selector(
        self,
        name: str | None = None,
        *,
        seed: int = 0,
        policy: KeepProbability | None = None,
        question: str | None = None,
    ) -> Selector:
        """A selector by name; None takes the bundle's default.

        Args:
            name: of the selector, with its options.
            seed: for ``random``.
            policy: takes the place of the bundle's own.
            question: for ``score-query``, which chooses for it.

        Raises:
            ScoreEdgeError: there is no such selector, or it lacks its policy, or its question.
        """
        chosen = name or self.bundle.manifest.selector.name
        if chosen.partition(":")[0] == "score":
            policy = policy or self.policy
        elif knows_question(chosen) and question is not None:
            query_policy, words = self.query_policy, self.words(question)

            def policy(tokens: Float32, previous: Float32, background: Float32) -> Float32:
                return query_policy(tokens, previous, background, words)

        return get_selector(chosen, policy=policy, seed=seed, grid=self.layout.grid)

    def words(self, question: str) -> Float32:
        """(1, D) float32: the mean of the rows that a question's tokens stand for.

        Raises:
            ScoreEdgeError: the backend does not tell them, or there is no token.
        """
        rows = self.model.rows_of(question)
        if not len(rows):
            raise ScoreEdgeError("the question is empty", "ask something, or choose with --selector score")
        return np.asarray(rows.mean(axis=0, keepdims=True), np.float32)

    @functools.cached_property
    def policy(self) -> KeepProbability | None:
        """The bundle's policy, opened on first use; None where it has none."""
        policy = open_policy(self.bundle, self._provider, threads=self._threads)

        if policy is None:
            return None

        def in_turn(tokens: Float32, previous: Float32) -> Float32:
            with self.turn:
                return policy(tokens, previous)

        return in_turn

    @functools.cached_property
    def query_policy(self) -> QueryPolicy:
        """The bundle's policy that knows the question, opened on first use.

        Raises:
            ScoreEdgeError: the bundle has none.
        """
        policy = open_query(self.bundle, threads=self._threads)

        def in_turn(tokens: Float32, previous: Float32, background: Float32, question: Float32) -> Float32:
            with self.turn:
                return policy(tokens, previous, background, question)

        return in_turn

    def encode(self, frames: Iterable[Frame], watch: Stopwatch | None = None, *, full: bool = False) -> EncodedClip:
        """Every visual token of a clip. Frames are taken as they come, so a lazy source is read inside `read`.

        Args:
            frames: in time order.
            watch: counts the stages; None takes a new one.
            full: encode every cell of every step.

        Raises:
            ScoreEdgeError: there is no frame.
        """
        watch = watch or Stopwatch()
        state = self.vision.start(full=full)
        tokens: list[Float32] = []
        encoded: list[Mask] = []
        shown: list[Frame] = []
        times: list[float] = []
        group: list[Frame] = []

        def close_step() -> None:
            found, cells = self.vision.encode(group, state, watch)
            tokens.append(found)
            encoded.append(cells)
            shown.append(self.preprocessing.framed(thumbnail(group[-1])))
            times.append((group[0].time_s + group[-1].time_s) / 2)
            group.clear()

        for frame in _timed(frames, watch):
            group.append(frame)
            del frame  # or it would be held until the next one is there
            if len(group) == self.preprocessing.frames_per_step:
                close_step()
        if group:
            close_step()
        if not tokens:
            raise ScoreEdgeError("the source has no frames", "check the file, or give a longer clip")
        return EncodedClip(np.stack(tokens), np.stack(encoded), shown, watch.seconds, times)

    def select(self, tokens: Float32, selector: Selector, retention: float) -> Mask:
        """(T, N) bool: the tokens of a clip that a selector and the clip budget keep; `all` keeps every one."""
        steps, per_step, _ = tokens.shape
        count = token_count(steps, per_step, 1.0 if selector.name == "all" else retention)
        if count == steps * per_step:
            return np.ones((steps, per_step), np.bool_)
        return clip_top_k(selector.score(tokens, count), count)

    def watch(self, tokens: Float32, keep: Mask, times: Sequence[float] | None = None) -> None:
        """Prefill a clip's kept tokens; questions may follow, and each forgets the one before it.

        Args:
            tokens: (T, N, D) float32.
            keep: (T, N) bool.
            times: of the steps, see `EncodedClip`; None takes frames at the bundle's rate.
        """
        prompt = self.layout.clip(KeptTokens.gather(tokens, keep, self.layout.grid), times)
        self.sequence.clear()
        self.sequence.append(*prompt.segments)
        self._video, self._tail = self.sequence.mark(), prompt.tail

    def prefill_question(self, question: str) -> None:
        """Roll back to the video and prefill a question."""
        if self._video is None:
            raise ScoreEdgeError("no clip has been watched yet", "call watch() before ask()")
        self.sequence.rollback(self._video)
        self.sequence.append(self.layout.question(self._tail, question))

    def ask(self, question: str, max_tokens: int = 128, sampling: Sampling = GREEDY) -> Iterator[str]:
        """The answer to a question about the watched clip, piece by piece."""
        self.prefill_question(question)
        yield from self.sequence.generate(max_tokens, sampling)

    def answer(
        self,
        clip: EncodedClip,
        question: str,
        *,
        selector: Selector,
        retention: float,
        max_tokens: int = 128,
        sampling: Sampling = GREEDY,
        sure: float = 0.0,
        on_text: Callable[[str], None] = lambda piece: None,
    ) -> tuple[Answer, Mask]:
        """Select, prefill and answer in one go, timed.

        Args:
            clip: from `encode`.
            question: plain text.
            selector: from `selector`.
            retention: kept / all visual tokens, in (0, 1].
            max_tokens, sampling: of the answer.
            sure: probability of the answer's first token below which MORE times as many tokens are looked at.
            on_text: called with every piece of the answer as it comes.

        Returns:
            The answer, and the (T, N) mask of what the model saw.
        """
        watch = Stopwatch(dict(clip.seconds))
        looks: list[Look] = []
        while True:
            with watch.stage("select"):
                keep = self.select(clip.tokens, selector, retention)
            with watch.stage("prefill"):
                self.watch(clip.tokens, keep, clip.times)
                self.prefill_question(question)
            if not sure:
                break
            looks.append(Look(int(keep.sum()), self.certainty()))
            if looks[-1].probability >= sure or keep.all():
                break
            retention = min(1.0, MORE * retention)
        pieces: list[str] = []
        with watch.stage("generate"):
            for piece in self.sequence.generate(max_tokens, sampling):
                pieces.append(piece)
                on_text(piece)
        timings = Timings(**watch.seconds, generated=len(pieces))
        return Answer("".join(pieces), int(keep.sum()), keep.size, timings, tuple(looks)), keep

    def certainty(self) -> float:
        """The probability of the answer's first token, after `prefill_question`.

        Raises:
            ScoreEdgeError: the backend gives no logits.
        """
        logits = self.sequence.logits().astype(np.float64)
        return float(1 / np.exp(logits - logits.max()).sum())


def _open_encoder(bundle: Bundle, whole: bool, provider: Provider, threads: int | None) -> tuple[Graph, dict[str, str]]:
    """The plain graph, or the incremental one; but not where only the plain one has an engine here."""
    if not whole:
        incremental, skipped = open_graph(bundle, "incremental", provider, threads=threads)
        if "tensorrt" not in skipped or not read_records(bundle):
            return incremental, skipped
        plain, missing = open_graph(bundle, "encoder", provider, threads=threads)
        return (incremental, skipped) if "tensorrt" in missing else (plain, missing)
    return open_graph(bundle, "encoder", provider, threads=threads)


def _read_rows(path: Path, width: int) -> Float32:
    """(n, width) float32 rows of a .npy file."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ScoreEdgeError(f"{path} cannot be read: {error}", "export the bundle again") from error
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != width:
        raise ScoreEdgeError(f"{path} holds {rows.shape} {rows.dtype}, not (n, {width}) float32")
    return np.asarray(rows)


def _timed(frames: Iterable[Frame], watch: Stopwatch) -> Iterator[Frame]:
    """The same frames, with the time it takes to get each counted as `read`."""
    source = iter(frames)
    while True:
        with watch.stage("read"):
            frame = next(source, None)
        if frame is None:
            return
        yield frame
        del frame
