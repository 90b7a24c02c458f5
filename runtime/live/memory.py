"""The memory of the video: which kept tokens are in the language model's cache, and which leave when it is full."""

import copy
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import LanguageModel, Mark, Segment, Sequence
from score_edge.runtime.language.layout import ClipWriter, Layout, StepTokens, joined
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling
from score_edge.runtime.live.opening import Opening
from score_edge.runtime.live.pauses import Pause, longest_pause, shortened

_QUARTER = 4
"""Where leaving means prefilling again what stays, a quarter of what fits is freed at once."""
_LABELS = 256
"""Steps after which numbers and times in the prompt's text may start again."""


@dataclass(frozen=True, slots=True)
class _Held:
    """One step in the cache.

    Attributes:
        step: its kept tokens.
        scores: (n,) of them.
        position: at which its own text begins, or its rows.
        cell: the same in cells, those included that were dropped since the last re-basing.
    """

    step: StepTokens
    scores: Float32
    position: int = 0
    cell: int = 0


class VideoMemory:
    """The newest steps of a stream, as many as a budget of KV cells holds, laid out as `ask` lays out a clip.

    A text in front never leaves. When the cells are full, or the window is, the oldest steps leave with their text.
    What has not changed since it was kept does not leave with them: of a place that no later step shows, the token is
    kept again as it is now. So every place of the picture is in the memory at any time.

    Positions grow with every step. No model knows positions without end: beyond those it was trained on, and when a
    quarter of them lie empty behind the text in front, what is held is prefilled again from the front (*re-based*). So
    it is when the text in front must change (see `Opening`), and in place of dropping cells where a model cannot.

    Args:
        model: whose sequence it is.
        sequence: empty; used by nobody else.
        layout: of the model's family.
        cells: KV cells for the video, its text included.
        window: newest steps that stay, those without kept tokens aside; None leaves it to the cells alone.
        pinned: share of the cells for the highest-scoring tokens of steps that left.
        trained: positions the model was trained on; None takes the model's own figure.

    Attributes:
        rebased: how often the cache was filled anew.

    Raises:
        ScoreEdgeError: the cells do not hold one step, or the model cannot continue a sequence.
    """

    def __init__(
        self,
        model: LanguageModel,
        sequence: Sequence,
        layout: Layout,
        *,
        cells: int,
        window: int | None = None,
        pinned: float = 0.0,
        trained: int | None = None,
    ) -> None:
        capabilities = model.capabilities
        if not capabilities.incremental:
            raise ScoreEdgeError("this language model cannot continue a sequence, so it cannot watch a stream")
        if not 0 <= pinned < 1:
            raise ScoreEdgeError(f"a pinned share of {pinned} is outside [0, 1)", "0.1 reserves a tenth")
        self.cells, self.rebased = cells, 0
        self._model, self._sequence, self._layout = model, sequence, layout
        self._window, self._pinned_cells = window, int(pinned * cells)
        self._trained = trained or capabilities.trained
        self._can_drop = not self._pinned_cells
        self._held: deque[_Held] = deque()  # oldest first, the pinned ones in front
        self._pins = 0  # how many of them are pinned
        self._shown_in = np.full(layout.grid.tokens, -1)  # number of the step that shows each place
        self._missed: Mask = np.zeros(layout.grid.tokens, np.bool_)  # places that a refused step was to show
        self._number = 0  # of the next step
        self._opening, self._is_clip = Opening(layout), True  # as `ask` takes it: no older than a window, nothing left
        self._first_s: float | None = None  # of the stream
        self._origin_s = self._newest_s = 0.0  # stream times; the prompt's count from the first
        least = layout.grid.tokens + self._text_cells()
        if cells - self._pinned_cells < least:
            raise ScoreEdgeError(
                f"{max(0, cells)} KV cells for the video do not hold one step of {least}",
                "take a larger context (--context)",
            )
        self._dropped = 0  # cells, since the last re-basing
        self._front = Mark(0, 0)  # where the text in front ends
        self._restart()
        self._behind = sequence.here  # where the sequence ends when all that is held is in it

    @property
    def used(self) -> int:
        """KV cells that the video takes."""
        return max(0, self._sequence.here.cells - self._front.cells)

    @property
    def steps(self) -> int:
        """Steps of which tokens are held, pinned ones aside."""
        return len(self._held) - self._pins

    @property
    def tokens(self) -> int:
        """Visual tokens held."""
        return sum(len(held.scores) for held in self._held)

    def append(self, tokens: Float32, keep: Mask, scores: Float32, seconds: float | None = None) -> Mask:
        """Take the next step in.

        Args:
            tokens: (N, D) float32.
            keep: (N,) bool; none may be kept, time goes on nevertheless.
            scores: (N,) float32, by which tokens are pinned.
            seconds: time of the step from the start of the stream; None takes the bundle's own rate.

        Returns:
            (N,) bool, what was kept of it: more than `keep` where older steps made way, or one before it was refused.

        Raises:
            ScoreEdgeError: a row is not finite: nothing was taken in, but time went on; the model refuses the step.
        """
        self._newest_s = self._layout.spacing * self._number + self._origin_s if seconds is None else seconds
        if self._first_s is None:
            self._first_s = self._newest_s
        finite: Mask = np.asarray(np.isfinite(tokens).all(axis=1))
        if not finite[keep].all():
            self._number += 1
            raise ScoreEdgeError("visual tokens are not finite", "the encoder overflows: run it in FP32")
        self._is_clip &= self._window is None or self._number < self._window
        chosen: Mask = keep | (self._missed & finite)
        try:
            self._take_in(tokens, chosen, scores, finite)
        except Exception:
            self._missed |= chosen
            raise
        self._missed &= ~chosen
        return chosen

    def _take_in(self, tokens: Float32, chosen: Mask, scores: Float32, finite: Mask) -> None:
        """Prefill the next step; what must be kept again is added to `chosen`."""
        if self._sequence.here != self._behind:
            self._rebase()
        self._make_room(chosen, finite)
        coming = int(chosen.any())
        if self._is_far() or not (self._is_clip or self._opening_holds(coming)):
            self._rebase(coming)
        places = np.flatnonzero(chosen).astype(np.int32)
        step = StepTokens(self._number, self._newest_s - self._origin_s, tokens[places], places)
        held = self._prefill([_Held(step, scores[places])])
        if len(places):
            self._held += held
            self._shown_in[places] = self._number
        self._number += 1

    def answer(self, question: str, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """Ask behind the video, piece by piece; afterwards, also when abandoned, the video is as it was."""
        if not self._held:
            raise ScoreEdgeError("nothing has been seen yet", "ask when the first frames are there")
        if self._sequence.here != self._behind or not self._opening_holds():
            self._rebase()
        video, tail = self._sequence.mark(), self._writer.tail
        try:
            closing = self._layout.closing(self._writer)
            self._sequence.append(*closing, self._layout.question(self._writer.tail, question))
            room = self._model.capabilities.room(self._sequence.here, max_tokens)
            return (yield from self._sequence.generate(room, sampling))
        finally:
            self._writer.tail = tail
            if self._sequence.here.cells:  # else the model lost it: what is held will be prefilled again
                self._sequence.rollback(video)

    def clip(self, question: str = "") -> list[StepTokens]:
        """All that is held, oldest first, as a clip of its own: numbered from 0, long pauses shortened."""
        steps = [held.step for held in self._held]
        return shortened(steps, self._longest_pause(), self._first_s or 0.0)

    def _make_room(self, chosen: Mask, finite: Mask) -> None:
        """Let the oldest steps leave until the next one fits; adds to it what must be kept again."""
        if not chosen.any():
            return
        if not self._is_full(chosen, self.cells, self._can_drop or self._excess() * _QUARTER >= self.used):
            return
        cells = self.cells if self._can_drop else (self.cells - self._pinned_cells) * (_QUARTER - 1) // _QUARTER
        pinned = [self._held.popleft() for _ in range(self._pins)]
        self._pins, left = 0, list[_Held]()
        while self._held and self._is_full(chosen, cells, True):
            left.append(self._held.popleft())
            chosen |= (self._shown_in == left[-1].step.number) & finite
        self._is_clip &= not left
        self._pin([*pinned, *left])
        if not self._can_drop or not self._drop():
            self._can_drop = False
            self._rebase(coming=1)

    def _is_full(self, chosen: Mask, cells: int, by_window: bool) -> bool:
        taken = self._end() - self._held[0].cell if self._held else 0
        needed = taken + int(np.count_nonzero(chosen)) + self._text_cells()
        return needed > cells or (by_window and self._window is not None and self.steps >= self._window)

    def _excess(self) -> int:
        """Cells of the steps that lie before the window."""
        excess = self.steps + 1 - (self._window or len(self._held) + 1)
        oldest = self._held[self._pins].cell if excess > 0 else 0
        behind = self._pins + excess
        return (self._held[behind].cell if behind < len(self._held) else self._end()) - oldest if excess > 0 else 0

    def _end(self) -> int:
        """One past the last cell, counted as `_Held.cell` is."""
        return self._sequence.here.cells + self._dropped

    def _text_cells(self) -> int:
        """Cells of the text around one step."""
        around = self._layout.around(self._empty_step(self._newest_s), first=False)
        return sum(self._model.count(text) for text in around if text)

    def _empty_step(self, seconds: float) -> StepTokens:
        return StepTokens(self._number, seconds, np.zeros((0, 0), np.float32), np.zeros(0, np.int32))

    def _drop(self) -> bool:
        """Drop what lies before the oldest step held; False where the model cannot."""
        here, start = self._sequence.here, self._front.position
        cells = (self._held[0].cell if self._held else self._end()) - self._dropped - self._front.cells
        if self._model.capabilities.keeps_positions:
            end = self._held[0].position if self._held else here.position
        else:
            end = start + cells
        if not self._sequence.forget(start, end, cells):
            return False
        self._dropped += cells
        self._behind = self._sequence.here
        if not self._held and not self._layout.one_block:
            self._writer = ClipWriter(self._layout, "")  # the text behind the last step left with it
        return True

    def _pin(self, candidates: list[_Held]) -> None:
        """Let the highest-scoring tokens of what leaves stay, as steps of fewer tokens; among equals the newest."""
        if not self._pinned_cells or not candidates:
            return
        owner = np.concatenate([np.full(len(held.scores), i) for i, held in enumerate(candidates)])
        scores = np.concatenate([held.scores for held in candidates]).astype(np.float64)
        stays, begun = np.zeros(len(scores), np.bool_), set[int]()
        text, room = self._text_cells(), self._pinned_cells
        for i in np.lexsort((-owner, -scores)):
            cost = 1 if owner[i] in begun else 1 + text
            if cost <= room:
                stays[i], room = True, room - cost
                begun.add(int(owner[i]))
        for i in sorted(begun, reverse=True):
            here, held = stays[owner == i], candidates[i]
            step = replace(held.step, embeddings=held.step.embeddings[here], tokens=held.step.tokens[here])
            self._held.appendleft(_Held(step, held.scores[here]))
        self._pins = len(begun)

    def _is_far(self) -> bool:
        """The next step lies beyond what the model was trained on, and the last re-basing has paid off."""
        position = self._next_end()
        grown, size = position - self._based.position, self._based.position - self._front.position
        # No model was trained with a hole between its first words and what follows them.
        hole = self._held[0].position - self._front.position if self._held else 0
        if self._trained is not None and max(position, _QUARTER * hole) >= self._trained:
            return grown * _QUARTER >= max(1, size)
        # Numbers and times in the prompt's text must not grow without end either.
        longest = _QUARTER * max(self._window or 0, len(self._held))
        return not self._layout.one_block and self._number - self._based_number >= max(longest, _LABELS)

    def _next_end(self) -> int:
        """The position behind the next step, where a pause before it takes some; else that behind the last."""
        here, layout = self._sequence.here, self._layout
        if not (layout.one_block and self._model.capabilities.keeps_positions):
            return here.position
        _, rows, _ = copy.copy(self._writer).parts(self._empty_step(self._newest_s - self._origin_s))
        return here.position if rows is None else (here.block if rows.continues else here.position) + rows.extent

    def _rebase(self, coming: int = 0) -> None:
        """Prefill all that is held again from the front, numbered from 0; long pauses in it shrink.

        Args:
            coming: steps that are about to follow.
        """
        self.rebased += 1
        steps, pause, number, shown = self.clip(), self._longest_pause(), 0, np.full_like(self._shown_in, -1)
        for held, step in zip(self._held, steps, strict=True):
            shown[self._shown_in == held.step.number] = step.number
        if self._held:
            last = self._held[-1].step
            number = steps[-1].number + pause.numbers(last.number, self._number)
            passed = min(self._newest_s - self._origin_s - last.seconds, pause.seconds)
            self._origin_s = self._newest_s - steps[-1].seconds - passed
        self._shown_in, self._number = shown, number
        renumbered = [replace(held, step=step) for held, step in zip(self._held, steps, strict=True)]
        self._held = deque(renumbered)
        self._restart(coming)
        self._held = deque(self._prefill(renumbered))
        self._based, self._based_number = self._sequence.here, number

    def _longest_pause(self) -> Pause:
        if not self._held:
            return Pause()
        first, window = self._held[0].step, self._window or 0
        span, seconds = self._number - first.number, self._newest_s - self._origin_s - first.seconds
        return longest_pause(
            self._layout, self._trained, span=span, seconds=seconds, held=len(self._held), window=window
        )

    def _opening_holds(self, coming: int = 0) -> bool:
        """The text in front is true of what is held and is about to come."""
        steps, seconds = len(self._held) + coming, self._newest_s - self._origin_s
        return self._opening.holds(steps, seconds, exactly=self._is_clip)

    def _restart(self, coming: int = 0) -> None:
        """Empty the cache; the text in front goes in with the first step."""
        self._sequence.clear()
        steps, seconds = len(self._held) + coming, self._newest_s - self._origin_s
        self._writer = ClipWriter(self._layout, self._opening.write(steps, seconds, exactly=self._is_clip))
        self._front = self._based = Mark(0, 0)
        self._based_number = self._number
        self._dropped = 0

    def _prefill(self, steps: list[_Held]) -> list[_Held]:
        """Append steps in one call; returns them with the places where they begin."""
        sequence, count, writer = self._sequence, self._model.count, copy.copy(self._writer)
        here, placed, segments = sequence.here, list[_Held](), list[Segment]()
        position, cell, block = here.position, self._end(), here.block
        for held in steps:
            text = self._writer.tail
            before, rows, after = self._writer.parts(held.step)
            if rows is None:
                continue
            if text + before:
                segments.append(text + before)
                words, own = count(text + before), count(before) if before else 0
                position, cell = position + words, cell + words
            else:
                own = 0
            self._writer.tail = after
            block = block if rows.continues else position
            begins = block + int(rows.places[0, 0]) if self._layout.one_block and len(rows) else position - own
            placed.append(replace(held, position=begins, cell=cell - own))
            segments.append(rows)
            cell += len(rows)
            if self._model.capabilities.keeps_positions:
                position = max(position, block + rows.extent)
            else:
                position += len(rows)
        try:
            sequence.append(*joined(segments))
        except Exception:
            self._writer = writer  # the text behind a step that is not there must not lead the next
            raise
        self._behind = sequence.here
        leading = self._end() - cell  # a token that begins every sequence
        placed = [replace(held, position=held.position + leading, cell=held.cell + leading) for held in placed]
        if not here.cells and placed:
            self._front = Mark(placed[0].position, placed[0].cell)
        return placed
