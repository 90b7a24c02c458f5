"""From captured frames to kept tokens, step by step: preprocess, encode what changed, score, budget."""

from dataclasses import dataclass, replace

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import error_text
from score_edge.runtime.overlay import thumbnail
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.capture import Captured
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.selection.causal_budget import CausalBudget
from score_edge.selection.registry import step_scorer
from score_edge.selection.residual import Residual

SURPRISING = 3.0
"""Times as many tokens as usual."""
_PICTURE = 1280  # pixels, width of what listeners get


@dataclass(frozen=True, slots=True)
class Seen:
    """One step, ready for the memory.

    Attributes:
        tokens: (N, D) float32; scores (N,) float32; keep (N,) bool.
        encoded: (N,) bool, the cells that were encoded. Of a step in which none was, nothing is kept again.
        surprise: far more was kept than usual.
        seconds: per stage.
        times_usual: kept tokens over their usual number, or over 1 where that is less.
    """

    captured: Captured
    tokens: Float32
    scores: Float32
    keep: Mask
    encoded: Mask
    surprise: bool
    seconds: dict[str, float]
    times_usual: float = 0.0


@dataclass(frozen=True, slots=True)
class Unseen:
    """A step that could not be perceived, and why."""

    captured: Captured
    reason: str


def stream_budget(pipeline: Pipeline, selector: str | None, retention: float | None) -> CausalBudget:
    """What a stream may keep, of all its cameras together; arguments as for `Perception`."""
    chosen = pipeline.selector(selector)
    share = pipeline.bundle.manifest.selector.retention if retention is None else retention
    retention = 1.0 if chosen.name == "all" else share
    return CausalBudget(pipeline.layout.grid.tokens, retention, getattr(chosen, "first", None))


class Perception:
    """The seeing half of a stream; knows nothing of language models and threads.

    Args:
        pipeline: for its preprocessing and encoder.
        selector: a causal selector's name; None takes the bundle's.
        retention: kept / all visual tokens; None takes the bundle's.
        budget: from `stream_budget`, where several cameras share one; None takes its own.

    Raises:
        ScoreEdgeError: the selector needs the whole clip, the retention is impossible.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        selector: str | None,
        retention: float | None,
        budget: CausalBudget | None = None,
    ) -> None:
        grid = pipeline.layout.grid
        chosen = pipeline.selector(selector)
        budget = budget or stream_budget(pipeline, selector, retention)
        self.selector, self.retention = chosen.name, budget.retention
        self._pipeline = pipeline
        self._scorer = step_scorer(chosen)
        self._budget = budget.share()
        self._residual = Residual()
        self._state = pipeline.vision.start()
        self._scored: Float32 | None = None  # tokens of the last step that was
        self._framed = pipeline.preprocessing.framed
        # Of a step in which nothing changed; unpruned means unpruned.
        self._of_unchanged: Mask = np.full(grid.tokens, chosen.name == "all")
        self._lowest = np.full(grid.tokens, -np.inf, np.float32)
        self._usual = max(self.retention * grid.tokens, 1.0)
        self._steps = 0  # in which something was scored

    def see(self, captured: Captured) -> Seen:
        """Take the next step in.

        Raises:
            ScoreEdgeError: tokens that are not finite, a failing encoder or policy: the step is then as if never
                captured.
        """
        watch = Stopwatch()
        tokens, encoded = self._pipeline.vision.encode(captured.frames, self._state, watch)
        with watch.stage("preprocess"):
            # Some dozen steps may wait for the language model: none holds a frame at full size.
            captured = replace(captured, frames=[self._framed(thumbnail(frame, _PICTURE)) for frame in captured.frames])
        if not encoded.any():
            self._budget.rest()
            return Seen(captured, tokens, self._lowest, self._of_unchanged, encoded, False, watch.seconds)
        try:
            with watch.stage("select"):
                scores = self._scorer.score(tokens, self._residual.advance(tokens))
                keep = self._budget.keep(scores)
                self._scorer.kept(tokens, keep)
        except Exception:
            self._forget()
            raise
        self._scored = tokens
        times_usual = self._times_usual(int(np.count_nonzero(keep)))
        return Seen(captured, tokens, scores, keep, encoded, times_usual >= SURPRISING, watch.seconds, times_usual)

    def try_to_see(self, captured: Captured) -> Seen | Unseen:
        """The same; whatever is wrong with a step costs this step and no other."""
        try:
            return self.see(captured)
        except Exception as error:
            return Unseen(captured, error_text(error))

    def close(self) -> None:
        """Leave the budget to the others."""
        self._budget.close()

    def _forget(self) -> None:
        """What the last step changed will be encoded, and compared with the one before it, once more."""
        self._state.forget()
        if self._scored is None:
            self._residual.reset()
        else:
            self._residual.advance(self._scored)

    def _times_usual(self, kept: int) -> float:
        """How many times the usual number of tokens was kept; 1 for the first step that is seen."""
        times_usual = kept / max(self._usual, 1.0) if self._steps else 1.0
        self._steps += 1
        self._usual += 0.05 * (min(kept, SURPRISING * self._usual) - self._usual)
        self._usual = max(self._usual, 0.5)
        return times_usual
