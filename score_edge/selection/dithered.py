"""Any selector with dithering and a first-step rule: what a policy is given, its rivals can have too."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import ScoreEdgeError, did_you_mean
from score_edge.selection.base import Causal, Selector, StepScorer
from score_edge.selection.dither import dithered, rank_odds, recent_odds

FirstStep = Literal["whole", "scored"]
_RECENT = 64  # steps whose scores a stream's are ranked among


@dataclass(frozen=True, slots=True)
class SelectorSpec:
    """A selector and how its scores are ranked, written ``last-kept:dither=1:first=scored``.

    Attributes:
        name: of the selector.
        dither: weight of the perturbation, see `dithered`; None takes the selector's own.
        first: whether the first step is kept entirely or scored like any other; None leaves it to the selector.
    """

    name: str
    dither: float | None = None
    first: FirstStep | None = None

    @staticmethod
    def read(text: str) -> "SelectorSpec":
        """The reverse of ``str()``.

        Raises:
            ScoreEdgeError: an option that is not known, or a value it cannot have.

        Example:
            >>> SelectorSpec.read("evs:dither=0.5")
            SelectorSpec(name='evs', dither=0.5, first=None)
        """
        name, *options = text.split(":")
        spec = SelectorSpec(name)
        for option in options:
            key, _, value = option.partition("=")
            if key == "dither" and value.replace(".", "", 1).isdecimal():
                spec = replace(spec, dither=float(value))
            elif key == "first" and value in get_args(FirstStep):
                spec = replace(spec, first=value)  # type: ignore[arg-type]
            else:
                known = ("dither", "first")
                hint = did_you_mean(key, known) if key not in known else "for example evs:dither=0.5:first=scored"
                raise ScoreEdgeError(f"selector {text!r}: {option!r} is not an option", hint)
        return spec

    def __str__(self) -> str:
        dither = "" if self.dither is None else f":dither={self.dither:g}"
        return self.name + dither + ("" if self.first is None else f":first={self.first}")


class Dithered:
    """A selector whose scores are dithered and whose first step is treated as told.

    Args:
        selector: gives the scores.
        spec: what was asked for; gives the name and the rule for the first step.
        weight: of the dithering.
        odds: its scores are log-odds already; else their ranks are given some.

    Attributes:
        first: the rule for a stream's first step.
    """

    def __init__(self, selector: Selector, spec: SelectorSpec, weight: float, *, odds: bool = False) -> None:
        self.name, self.first = str(spec), spec.first
        self._selector, self._odds = selector, odds
        self._dither = weight

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: tokens the budget will keep.

        Returns:
            (T, N) float32.
        """
        # A selector that keeps the first step by itself spends part of the count on it.
        spared = tokens.shape[1] if self.first == "scored" else 0
        scores = np.array(self._selector.score(tokens, min(count + spared, tokens.shape[0] * tokens.shape[1])))
        if self.first == "scored":
            scores[0] = _unknown_last(scores[0], scores)
        elif self.first == "whole":
            scores[0] = np.inf
        if not self._dither:
            return scores
        return dithered(scores if self._odds else rank_odds(scores), 0, self._dither)

    def by_step(self) -> StepScorer:
        """The same for a stream.

        Raises:
            ScoreEdgeError: the selector needs the whole clip.
        """
        if not isinstance(self._selector, Causal):
            raise ScoreEdgeError(
                f"selector {self.name} needs a whole clip, and a stream has no end",
                "score, last-kept and evs need none",
            )
        return _ByStep(self._selector.by_step(), self._dither, self.first, self._odds)


class _ByStep(StepScorer):
    def __init__(self, scorer: StepScorer, dither: float, first: FirstStep | None, odds: bool) -> None:
        self._scorer, self._dither, self._first, self._odds = scorer, dither, first, odds
        self._recent: list[Float32] = []
        self._steps = 0

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        scores = self._scorer.score(tokens, previous)
        if self._steps == 0 and self._first is not None:
            whole = np.full_like(scores, np.inf)
            scores = whole if self._first == "whole" else _unknown_last(scores, scores)
        if self._dither:
            odds = scores if self._odds else self._rank(scores)
            (row,) = dithered(odds[None], self._steps, self._dither)
            scores = np.asarray(row, np.float32)
        self._steps += 1
        return scores

    def kept(self, tokens: Float32, keep: Mask) -> None:
        self._scorer.kept(tokens, keep)

    def _rank(self, scores: Float32) -> Float32:
        self._recent = [*self._recent[1 - _RECENT :], scores[np.isfinite(scores)]]
        return recent_odds(scores, np.sort(np.concatenate(self._recent)))


def _unknown_last(scores: Float32, others: Float32) -> Float32:
    """Scores with those that had nothing to compare with as low as the lowest of others."""
    known = others[np.isfinite(others)]
    return np.where(np.isposinf(scores), known.min() if known.size else np.float32(0), scores).astype(np.float32)
