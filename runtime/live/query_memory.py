"""The memory of the video for `score-query`: every token of the newest steps, chosen when the question comes."""

from collections import deque
from collections.abc import Generator
from dataclasses import replace

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Sequence
from score_edge.runtime.language.layout import StepTokens
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling
from score_edge.runtime.live.pauses import longest_pause, shortened
from score_edge.runtime.pipeline import Pipeline


class QueryMemory:
    """The newest steps of a stream in full, outside the language model's cache until somebody asks.

    A question chooses among them, is prefilled behind what it chose, and leaves nothing in the cache. So its first word
    waits for a prefill, of few tokens, and a question may look at what nothing spoke for when it was seen. A step that
    shows what the one before it showed is not held again; the time passes nevertheless.

    Args:
        pipeline: whose language model answers.
        sequence: of it, empty; used by nobody else.
        selector: ``score-query``, with its options.
        retention: kept / all visual tokens of what is held, in (0, 1].
        cells: KV cells for the video, its text included.
        window: newest steps that are held, as far as what is kept of them fits into the cells; None: as many as do.

    Attributes:
        rebased: 0, there is nothing to fill anew.

    Raises:
        ScoreEdgeError: the bundle has no such policy, the cells do not hold what is kept of one step, or the backend
            does not tell the question's rows.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sequence: Sequence,
        selector: str,
        retention: float,
        *,
        cells: int,
        window: int | None = None,
    ) -> None:
        self.cells, self.rebased = cells, 0
        self._pipeline, self._sequence, self._selector, self._retention = pipeline, sequence, selector, retention
        self._layout = pipeline.layout
        self._trained = pipeline.bundle.manifest.language.trained or pipeline.model.capabilities.trained
        pipeline.selector(selector, question="what is there?")  # refuses here what it cannot do
        fitting = int(cells / (retention * self._layout.grid.tokens + self._text_cells()))
        if fitting < 1:
            raise ScoreEdgeError(
                f"{max(0, cells)} KV cells do not hold what is kept of one step",
                "take a larger context (--context), or a smaller retention",
            )
        self._window = min(window or fitting, fitting)
        self._held: deque[StepTokens] = deque(maxlen=self._window)
        self._first_s: float | None = None  # of the stream
        self._places = np.arange(self._layout.grid.tokens, dtype=np.int32)
        self._number = 0  # of the next step
        sequence.clear()

    @property
    def used(self) -> int:
        """KV cells that the video takes between questions: none."""
        return 0

    @property
    def steps(self) -> int:
        """Steps held."""
        return len(self._held)

    @property
    def tokens(self) -> int:
        """Visual tokens held."""
        return sum(len(step.tokens) for step in self._held)

    def append(self, tokens: Float32, keep: Mask, scores: Float32, seconds: float | None = None) -> Mask:
        """Take the next step in.

        Args:
            tokens: (N, D) float32, finite as `VisionEncoder` gives them, not written to later.
            keep: (N,) bool; what a selector that knows no question would keep. Not used: returned as it is.
            scores: not used.
            seconds: time of the step from the start of the stream; None takes the bundle's own rate.
        """
        number, self._number = self._number, self._number + 1
        if not self._held or not np.array_equal(self._held[-1].embeddings, tokens):
            seconds = self._layout.spacing * number if seconds is None else seconds
            self._first_s = seconds if self._first_s is None else self._first_s
            self._held.append(StepTokens(number, seconds, tokens, self._places))
        return keep

    def answer(self, question: str, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """Choose for the question, prefill that, and answer piece by piece; afterwards the cache is empty.

        Raises:
            ScoreEdgeError: nothing has been seen yet.
        """
        if not self._held:
            raise ScoreEdgeError("nothing has been seen yet", "ask when the first frames are there")
        prompt = self._layout.steps(self.clip(question))
        try:
            self._sequence.append(*prompt.segments, self._layout.question(prompt.tail, question))
            room = self._pipeline.model.capabilities.room(self._sequence.here, max_tokens)
            return (yield from self._sequence.generate(room, sampling))
        finally:
            self._sequence.clear()

    def clip(self, question: str) -> list[StepTokens]:
        """What the question chooses, as a clip of its own: oldest first, numbered from 0, long pauses shortened."""
        if not self._held:
            return []
        tokens = np.stack([step.embeddings for step in self._held])
        selector = self._pipeline.selector(self._selector, question=question)
        keep = self._pipeline.select(tokens, selector, self._retention)
        chosen = [
            replace(step, embeddings=step.embeddings[kept], tokens=step.tokens[kept])
            for step, kept in zip(self._held, keep, strict=True)
        ]
        span, seconds = self._number - chosen[0].number, chosen[-1].seconds - chosen[0].seconds
        pause = longest_pause(
            self._layout, self._trained, span=span, seconds=seconds, held=len(chosen), window=self._window
        )
        return shortened(chosen, pause, self._first_s or 0.0)

    def _text_cells(self) -> int:
        """Cells of the text around one step, its number and its time as long as they may come."""
        nothing = StepTokens(99_999, 99_999.0, np.zeros((0, 0), np.float32), np.zeros(0, np.int32))
        return sum(self._pipeline.model.count(text) for text in self._layout.around(nothing, first=False) if text)
