"""The memory of the video: which kept tokens are in the language model's cache, and which leave when it is full."""

import itertools
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Grid, Int32, KeptTokens, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import LanguageModel

LONGEST_SPAN = 4096
_ROOM = 4
"""Where leaving means prefilling again what stays, a quarter of the cells is freed at once."""


@dataclass(frozen=True, slots=True)
class _Held:
    """The kept tokens of one step: t, (n, 3) int32 positions (t is not filled in), (n, D) rows, (n,) scores."""

    t: int
    places: Int32
    rows: Float32
    scores: Float32


class VideoMemory:
    """The newest steps of a stream, as many as a budget of KV cells holds, behind a text that never leaves.

    When the cells are full the oldest steps leave. Positions (t) grow with every step, kept or not, and are numbered
    anew after ``span`` steps by prefilling what is held again: no model knows positions without end. Models that cannot
    drop tokens from the middle of their cache, and a memory with a memorable part, do that whenever they are full.
    A question is asked behind the video and rolled back.

    Args:
        model: empty; used by nobody else.
        before: the text in front of the video.
        grid: visual tokens of one step.
        cells: KV cells for visual tokens.
        window: newest steps that stay; None leaves it to the cells alone.
        memorable: share of the cells that the highest-scoring tokens of all steps that left may go on using.
        span: steps after which positions are numbered anew; None takes a quarter more than the window, or 4096.

    Attributes:
        renewals: how often the cache was filled anew.

    Raises:
        ScoreEdgeError: the cells do not hold one step, or the model cannot continue a sequence.
    """

    def __init__(
        self,
        model: LanguageModel,
        before: str,
        grid: Grid,
        *,
        cells: int,
        window: int | None = None,
        memorable: float = 0.0,
        span: int | None = None,
    ) -> None:
        if not model.capabilities.incremental:
            raise ScoreEdgeError("this language model cannot continue a sequence, so it cannot watch a stream")
        if not 0 <= memorable < 1:
            raise ScoreEdgeError(f"a memorable share of {memorable} is outside [0, 1)", "0.1 reserves a tenth")
        self._pool_cells = int(memorable * cells)
        if cells - self._pool_cells < grid.tokens:
            raise ScoreEdgeError(
                f"{model.capabilities.context} KV cells, less those for prompt, question and answer, do not hold one "
                f"step of {grid.tokens} visual tokens",
                "a larger --context, or a smaller --max-tokens",
            )
        self.cells = cells
        self.renewals = 0
        self._model, self._before, self._grid = model, before, grid
        self._window = window
        self._span = max((window or 0) + 1, span or (window + window // 4 if window else LONGEST_SPAN))
        self._steps: deque[_Held] = deque()  # oldest first; only steps of which something was kept
        self._pool: list[_Held] = []  # one token each, oldest first
        self._in_steps = 0  # cells they take
        self._t = 0  # of the next step, since the last renewal
        self._begun = False
        self._forgets = True  # until the model says that it cannot
        model.reset()
        model.append_text(before)

    @property
    def used(self) -> int:
        """KV cells that hold visual tokens."""
        return self._in_steps + len(self._pool)

    @property
    def steps(self) -> int:
        """Steps from the oldest one held to now."""
        return self._t - self._steps[0].t if self._steps else 0

    def append(self, tokens: Float32, keep: Mask, scores: Float32) -> None:
        """Take the next step in.

        Args:
            tokens: (N, D) float32.
            keep: (N,) bool; none may be kept, time goes on nevertheless.
            scores: (N,) float32, what makes a token memorable.

        Raises:
            ScoreEdgeError: a row is not finite: nothing was taken in, but time went on.
        """
        if not np.isfinite(tokens[keep]).all():
            self._t += 1
            raise ScoreEdgeError("visual tokens are not finite", "the encoder overflows: run it in FP32")
        chosen = np.flatnonzero(keep)
        self._make_room(len(chosen))
        if self._t >= self._span:
            self._renew()
        step = _Held(self._t, self._places(chosen), tokens[chosen], scores[chosen])
        self._t += 1
        if not len(chosen) and not self._begun:
            return
        self._prefill([step])  # a step of no tokens too: the question's position moves on with time
        if len(chosen):
            self._steps.append(step)
            self._in_steps += len(chosen)

    def answer(self, prompt: str, max_tokens: int) -> Generator[str, None, None]:
        """Ask behind the video, piece by piece; afterwards, also when abandoned, the video is as it was."""
        if not self._begun:
            raise ScoreEdgeError("nothing has been seen yet", "ask when the first frames are there")
        video = self._model.mark()
        try:
            self._model.append_text(prompt)
            yield from self._model.generate(max_tokens)
        finally:
            self._model.rollback(video)

    def _make_room(self, coming: int) -> None:
        """Let the oldest steps leave until the next one fits."""
        renewing = not self._forgets or self._pool_cells > 0
        cells, slack = self.cells - self._pool_cells, (self._window or 0) // _ROOM if renewing else 0
        full = self._in_steps + coming > cells
        if not full and not self._too_long(slack):
            return
        target = cells - cells // _ROOM if full and renewing else cells
        left: list[_Held] = []
        while self._steps and (self._in_steps + coming > target or self._too_long(0)):
            left.append(self._steps.popleft())
            self._in_steps -= len(left[-1].rows)
        self._remember(left)
        if not renewing:
            stay = self._steps[0].t if self._steps else self._t
            self._forgets = self._model.forget_oldest(sum(len(step.rows) for step in left), stay)
        if renewing or not self._forgets:
            self._renew()

    def _too_long(self, slack: int) -> bool:
        return self._window is not None and self.steps >= self._window + slack

    def _remember(self, left: list[_Held]) -> None:
        """Let the highest-scoring tokens of what leaves stay; among equals the newest."""
        if not self._pool_cells:
            return
        single = [
            _Held(step.t, step.places[i : i + 1], step.rows[i : i + 1], step.scores[i : i + 1])
            for step in left
            for i in range(len(step.rows))
        ]
        ranked = sorted(self._pool + single, key=lambda held: (float(held.scores[0]), held.t), reverse=True)
        self._pool = sorted(ranked[: self._pool_cells], key=lambda held: (held.t, tuple(held.places[0])))

    def _renew(self) -> None:
        """Prefill all that is held again, numbered from 0; long pauses in it shrink."""
        self.renewals += 1
        reach = max(self._window or 0, self._span // 2)
        while len(self._steps) > reach:
            self._in_steps -= len(self._steps.popleft().rows)
        held = [*self._pool, *self._steps]
        times = sorted({step.t for step in held} | {self._t})
        longest = reach if self._t - times[0] <= reach else max(1, reach // len(times))
        number, new = {times[0]: 0}, 0
        for before, after in itertools.pairwise(times):
            new += min(after - before, longest)
            number[after] = new
        self._pool = [replace(token, t=number[token.t]) for token in self._pool]
        self._steps = deque(replace(step, t=number[step.t]) for step in self._steps)
        self._t = number[self._t]
        self._model.reset()
        self._model.append_text(self._before)
        self._begun = False
        self._prefill([*self._pool, *self._steps])

    def _prefill(self, steps: list[_Held]) -> None:
        if not steps:
            return
        positions = np.concatenate([step.places for step in steps])
        positions[:, 0] = np.repeat([step.t for step in steps], [len(step.rows) for step in steps])
        rows = np.concatenate([step.rows for step in steps]) if len(steps) > 1 else steps[0].rows
        kept = KeptTokens(rows, positions, self._t, self._grid)
        self._model.append_tokens(kept, continued=self._begun)
        self._begun = True

    def _places(self, chosen: NDArray[np.intp]) -> Int32:
        places = np.zeros((len(chosen), 3), np.int32)
        places[:, 1], places[:, 2] = np.divmod(chosen, self._grid.width)
        return places
