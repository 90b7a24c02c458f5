"""How a clip becomes a prompt: what stands in front, around every step and behind, and how positions go on.

The one place that knows. `ask` lays out a whole clip with it, a stream one step after the other, and `profile`, policy
learning and TensorRT-LLM take the same segments.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import numpy as np

from score_edge.bundle.manifest import QUESTION, TOKENS, Manifest, Prompt
from score_edge.core import Float32, Grid, Int32, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Question, Rows, Segment
from score_edge.runtime.language.number_words import in_words

_WRAPPER = re.compile(rf"((?:<[^<>\s]+>)+){re.escape(TOKENS)}((?:<[^<>\s]+>)+)")
_ABOUT_FRAMES = re.compile(r"[^\n>:]*\{frames\}.*", re.DOTALL)  # SmolVLM's sentence about the clip
_SNAP = 0.1  # of the time between steps: frames of a camera never lie exactly on the rate that was asked for


@dataclass(frozen=True, slots=True)
class StepTokens:
    """The kept tokens of one step.

    Attributes:
        number: of the step, from 0; none is skipped for steps of which nothing was kept.
        seconds: time of the step from the start of the clip.
        embeddings: (n, D) float32.
        tokens: (n,) int, which of the step's N tokens they are, ascending.
    """

    number: int
    seconds: float
    embeddings: Float32
    tokens: Int32


@dataclass(frozen=True, slots=True)
class ClipPrompt:
    """A whole clip, ready to be appended.

    Attributes:
        segments: up to and with the last rows.
        tail: text that belongs to the question's first words: a tokeniser may merge the two.
    """

    segments: list[Segment]
    tail: str


class Layout:
    """The prompt of one model family.

    Args:
        prompt: the texts.
        grid: visual tokens of one step.
        spacing: seconds between two steps at the bundle's own rate.
        time_scale: M-RoPE time positions per second; None counts steps.
        newline: (k, D) rows that close a clip.

    Attributes:
        one_block: the whole clip is one block of rows; else every step is one, between texts of its own.
        counts_seconds: time positions are those of the seconds, and not of the steps' numbers.
    """

    def __init__(
        self,
        prompt: Prompt,
        grid: Grid,
        *,
        spacing: float = 1.0,
        time_scale: float | None = None,
        newline: Float32 | None = None,
    ) -> None:
        self.grid, self.spacing = grid, spacing
        self.one_block, self.counts_seconds = not prompt.step, time_scale is not None
        self._prompt, self._time_scale, self._newline = prompt, time_scale, newline

    @staticmethod
    def of(manifest: Manifest, newline: Float32 | None = None) -> "Layout":
        """The layout of a bundle; `newline` are the rows of its file, if it names one."""
        vision = manifest.vision
        spacing = vision.frames_per_step / vision.fps
        scale = manifest.language.time_scale
        return Layout(manifest.prompt, vision.token_grid, spacing=spacing, time_scale=scale, newline=newline)

    @property
    def positions_per_step(self) -> float:
        """Time positions from one step of a block to the next."""
        return 1.0 if self._time_scale is None else self._time_scale * self.spacing

    def clip(self, kept: KeptTokens, times: Sequence[float] | None = None) -> ClipPrompt:
        """Lay out a clip. Where steps have text, one of which nothing was kept is left out, as if never sampled.

        Args:
            kept: n >= 1 tokens of T steps.
            times: T seconds from the start of the source, one per step; None takes the bundle's own rate.

        Raises:
            ScoreEdgeError: no tokens, or as many times as there are no steps.
        """
        times = [self.spacing * step for step in range(kept.steps)] if times is None else times
        if len(times) != kept.steps or not kept.kept:
            raise ScoreEdgeError(f"{kept.kept} kept tokens and {len(times)} times for a clip of {kept.steps} steps")
        bounds = np.searchsorted(kept.positions[:, 0], np.arange(kept.steps + 1))
        tokens = kept.positions[:, 1] * kept.grid.width + kept.positions[:, 2]
        rows = [slice(start, end) for start, end in pairwise(bounds)]
        return self.steps(
            [StepTokens(t, times[t], kept.embeddings[rows[t]], tokens[rows[t]]) for t in range(kept.steps)]
        )

    def steps(self, steps: Sequence[StepTokens]) -> ClipPrompt:
        """Lay out a clip that is there step by step, one at least."""
        writer = ClipWriter(self, self.opening(_shown(steps), steps[-1].seconds))
        segments = [segment for step in steps for segment in writer.step(step)]
        return ClipPrompt(joined([*segments, *self.closing(writer)]), writer.tail)

    def clips(self, clips: Sequence[tuple[str, Sequence[StepTokens]]]) -> ClipPrompt:
        """Lay out several clips in one prompt, each behind its name: ``front: <video> yard: <video>``.

        Args:
            clips: names, without special tokens, and the steps of each, one at least.
        """
        steps = [step for _, of_clip in clips for step in of_clip]
        before, after = self._wrapper()
        text = self.opening(_shown(steps), max(step.seconds for step in steps)).removesuffix(before)
        tail, segments = "", list[Segment]()
        for name, of_clip in clips:
            writer = ClipWriter(self, f"{text}{name}: {before}")
            segments += [segment for step in of_clip for segment in writer.step(step)]
            segments += self.closing(writer)
            tail, text = writer.tail, f"{writer.tail}{after} "
        return ClipPrompt(joined(segments), tail)

    def _wrapper(self) -> tuple[str, str]:
        """The special tokens that touch a clip on both sides; steps with text have theirs in it."""
        prompt = self._prompt
        wrapped = "" if prompt.step else f"{prompt.before}{TOKENS}{prompt.after}"
        found = _WRAPPER.search(wrapped)
        return (found[1], found[2]) if found else ("", "")

    def opening(self, steps: int, seconds: float) -> str:
        """The text in front of a clip that shows so many steps and is so long."""
        text = self._prompt.before.replace("{frames}", in_words(steps))
        return text.replace("{duration}", str(timedelta(seconds=int(seconds))))

    def around(self, step: StepTokens, *, first: bool) -> tuple[str, str]:
        """The text before and after a step's tokens; empty where the clip is one block."""
        clock = f"{int(step.seconds // 60):02d}:{int(step.seconds % 60):02d}"
        text = self._prompt.step.replace("{number}", str(step.number + 1)).replace("{clock}", clock)
        before, _, after = text.replace("{seconds}", f"{step.seconds:.1f}").partition(TOKENS)
        return ("" if first else self._prompt.between) + before, after

    def closing(self, writer: "ClipWriter") -> list[Segment]:
        """What ends a clip: the newline rows of a family that has them."""
        if self._newline is None:
            return []
        places = np.zeros((len(self._newline), 3), np.int32)
        places[:, 2] = np.arange(len(self._newline))
        text: list[Segment] = [writer.tail] if writer.tail else []
        writer.tail = ""
        return [*text, Rows(self._newline, places, len(self._newline))]

    def question(self, tail: str, text: str) -> Question:
        """A question behind a clip whose last text is `tail`, up to where the answer starts."""
        before, _, after = self._prompt.after.partition(QUESTION)
        return Question(tail + before, text, after)

    def text(self, text: str) -> Question:
        """A question about no clip: what the prompt says of one is left out as far as its special tokens tell."""
        opened, closed = self._wrapper()
        before, _, after = self._prompt.after.removeprefix(closed).partition(QUESTION)
        front = _ABOUT_FRAMES.sub("", self._prompt.before.removesuffix(opened))
        return Question(front + before, text, after)

    def time(self, step: StepTokens, first_s: float, behind: int) -> int:
        """The time position of a step in a block that began at `first_s`; steps before it reach up to `behind`."""
        if self._time_scale is None:
            return step.number
        passed = step.seconds - first_s
        nearest = round(passed / self.spacing) * self.spacing
        passed = nearest if abs(passed - nearest) < _SNAP * self.spacing else passed
        return max(int(passed * self._time_scale + 1e-6), behind)


class ClipWriter:
    """Lays out the steps of one clip, in order.

    Args:
        layout: of the family.
        opening: from `Layout.opening`.

    Attributes:
        tail: text that comes before whatever comes next.
    """

    def __init__(self, layout: Layout, opening: str) -> None:
        self._layout, self.tail = layout, opening
        self._first: StepTokens | None = None
        self._behind = 0

    def step(self, step: StepTokens) -> list[Segment]:
        """The segments of the next step; none where it has text and nothing was kept of it."""
        before, rows, after = self.parts(step)
        if rows is None:
            return []
        text: list[Segment] = [self.tail + before] if self.tail + before else []
        self.tail = after
        return [*text, rows]

    def parts(self, step: StepTokens) -> tuple[str, Rows | None, str]:
        """What `step` puts together: the text that leads the step, its rows, the text behind them."""
        layout, grid = self._layout, self._layout.grid
        places = np.zeros((len(step.tokens), 3), np.int32)
        places[:, 1], places[:, 2] = np.divmod(step.tokens, grid.width)
        first, self._first = self._first, self._first or step
        if layout.one_block:
            places[:, 0] = t = layout.time(step, (first or step).seconds, self._behind)
            self._behind = t + 1
            extent = max(t + 1, grid.height, grid.width)
            return "", Rows(step.embeddings, places, extent, continues=first is not None), ""
        if not len(step.tokens):
            self._first = first
            return "", None, ""
        before, after = layout.around(step, first=first is None)
        return before, Rows(step.embeddings, places, max(grid.height, grid.width)), after


def _shown(steps: Sequence[StepTokens]) -> int:
    """Steps of which something was kept."""
    return sum(len(step.tokens) > 0 for step in steps)


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """The same with the rows of one block in one piece."""
    groups = list[list[Segment]]()
    for segment in segments:
        if isinstance(segment, Rows) and segment.continues and groups and isinstance(groups[-1][0], Rows):
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return [_one(group) for group in groups]


def _one(group: list[Segment]) -> Segment:
    rows = [segment for segment in group if isinstance(segment, Rows)]
    if len(rows) < 2:
        return group[0]
    return Rows(
        np.concatenate([part.embeddings for part in rows]),
        np.concatenate([part.places for part in rows]),
        max(part.extent for part in rows),
        rows[0].continues,
    )
