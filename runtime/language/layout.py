"""What the language model reads of a clip, in order: text and kept tokens in turns, as the model was trained to."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from score_edge.bundle.manifest import TOKENS, Manifest, Prompt
from score_edge.core import Float32, Grid, KeptTokens
from score_edge.errors import ScoreEdgeError

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


@dataclass(frozen=True, slots=True)
class ClipPrompt:
    """A clip between its texts.

    Attributes:
        parts: text and the tokens that follow it.
        tail: text between the last tokens and the question. It belongs to the question's first words: a tokeniser may
            merge the two.
    """

    parts: list[tuple[str, KeptTokens]]
    tail: str


def clip_prompt(
    manifest: Manifest, kept: KeptTokens, times: Sequence[float], newline: Float32 | None = None
) -> ClipPrompt:
    """Lay out a clip. A step of which nothing was kept is left out with its text, as if it had not been sampled.

    Args:
        manifest: of the bundle.
        kept: n >= 1 tokens of T steps.
        times: T seconds from the start of the source, one per step.
        newline: (k, D) rows that close the clip.

    Raises:
        ScoreEdgeError: no tokens, or as many times as there are no steps.
    """
    if len(times) != kept.steps or not kept.kept:
        raise ScoreEdgeError(f"{kept.kept} kept tokens and {len(times)} times for a clip of {kept.steps} steps")
    prompt = manifest.prompt
    shown = np.unique(kept.positions[:, 0])
    text = _begin(prompt, len(shown), times[-1])
    parts: list[tuple[str, KeptTokens]] = []
    if prompt.step:
        for step in shown:
            before, after = around_step(prompt, int(step), times[step])
            parts.append((text + (prompt.between if parts else "") + before, _one_step(kept, int(step))))
            text = after
    else:
        parts.append((text, _in_time(kept, times, manifest)))
        text = ""
    if newline is not None:
        rows = KeptTokens(newline, np.zeros((len(newline), 3), np.int32), 1, Grid(1, len(newline)))
        rows.positions[:, 2] = np.arange(len(newline))
        parts.append((text, rows))
        text = ""
    return ClipPrompt(parts, text)


def around_step(prompt: Prompt, step: int, seconds: float) -> tuple[str, str]:
    """The text before and after the tokens of one step.

    Args:
        prompt: whose `step` is not empty.
        step: running number, from 0.
        seconds: time of the step.
    """
    clock = f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"
    filled = prompt.step.replace("{number}", str(step + 1)).replace("{clock}", clock)
    before, _, after = filled.replace("{seconds}", f"{seconds:.1f}").partition(TOKENS)
    return before, after


def in_words(number: int) -> str:
    """A count below a million in English words: 132 is one hundred and thirty-two."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    rest = number % unit
    joint = " and " if rest < 100 else ", "
    return f"{in_words(number // unit)} {name}" + (joint + in_words(rest) if rest else "")


def _begin(prompt: Prompt, frames: int, last_s: float) -> str:
    return prompt.before.replace("{frames}", in_words(frames)).replace(
        "{duration}", str(timedelta(seconds=int(last_s)))
    )


def _one_step(kept: KeptTokens, step: int) -> KeptTokens:
    here = kept.positions[:, 0] == step
    positions = kept.positions[here]
    positions[:, 0] = 0
    return KeptTokens(np.ascontiguousarray(kept.embeddings[here]), positions, 1, kept.grid)


def _in_time(kept: KeptTokens, times: Sequence[float], manifest: Manifest) -> KeptTokens:
    """The same tokens at the time positions of a model that counts seconds; unchanged for one that counts steps."""
    scale, vision = manifest.language.time_scale, manifest.vision
    if scale is None:
        return kept
    spacing = vision.frames_per_step / vision.fps
    if len(times) > 1:
        found = (times[-1] - times[0]) / (len(times) - 1)
        # Frames never lie exactly on the grid of the rate that was asked for; a longer clip is sampled thinner.
        spacing = spacing if abs(found / spacing - 1) < 0.1 else found
    steps = np.floor(np.arange(kept.steps) * (scale * spacing) + 1e-6).astype(np.int32)
    positions = kept.positions.copy()
    positions[:, 0] = steps[positions[:, 0]]
    return dataclasses.replace(kept, positions=positions, steps=int(steps[-1]) + 1)
