"""The causal budget: which tokens of a stream are kept, decided step by step without seeing what comes."""

import math

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.selection.base import StepScorer
from score_edge.selection.budget import check_scores, clip_top_k
from score_edge.selection.dithered import FirstStep
from score_edge.selection.residual import Residual

TOLERANCE = 0.02
"""How far, relative, the long-run retention may be off, from step SETTLED on."""
SETTLED = 200
_REPAID_OVER = 16  # steps in which a burst is made up for
_REMEMBERED = 64  # steps whose scores say what is a high score now
_SLOWEST, _FASTEST = 0.25, 1.25  # of the planned rate, while making up for a burst or for saving
_LOWEST = np.finfo(np.float32).min
_FLOOR = 0.1  # of what its steps earn, that each of several streams gets whatever the others show


class CausalBudget:
    """Keeps what scores high beside the recent past, and as much as the retention says in the long run.

    A token bucket with a moving threshold. Every step earns ``retention * N`` tokens, every kept token costs one. The
    threshold is the score that as many of the recent tokens exceed as the retention wants, fewer after a burst, more
    after saving. A burst may spend what was saved and borrow as much again; the first step is kept entirely. From step
    200 on ``kept / (steps * N)`` is within 2 % of the retention whatever the scores are, because what may be saved or
    borrowed is bounded by 2 % of what was earned, and by one step of N tokens.

    Steps in which nothing changed are told to `rest`: they keep nothing and save no more than the bucket holds, so a
    quiet hour costs nothing, and its retention is below the target.

    Several streams may spend from one budget, each by a `share` of its own: the steps of all are one series, and what
    scores high gets the tokens, whoever shows it; also those of a stream that rests.

    Args:
        tokens_per_step: N.
        retention: kept / all visual tokens, in (0, 1].
        first: the first step is kept entirely, or scored like any other.

    Raises:
        ScoreEdgeError: the retention is outside (0, 1].

    Example:
        >>> budget = CausalBudget(tokens_per_step=4, retention=0.25)
        >>> budget.keep(np.array([0.1, 0.2, 0.2, 0.3], np.float32))  # the first step entirely
        array([ True,  True,  True,  True])
        >>> budget.keep(np.array([0.1, 0.9, 0.2, 0.3], np.float32))
        array([False,  True, False, False])
    """

    def __init__(self, tokens_per_step: int, retention: float, first: FirstStep | None = None) -> None:
        if not 0 < retention <= 1:
            raise ScoreEdgeError(f"retention {retention} is outside (0, 1]", "0.1 keeps 10 % of the visual tokens")
        self._tokens = tokens_per_step
        self.retention = retention
        self.earned = retention * tokens_per_step
        """Tokens, by every step."""
        self.shares = 0
        """Streams that spend from it."""
        self._first_whole = first != "scored"
        self._recent = np.empty(_REMEMBERED * tokens_per_step, np.float32)
        self._written = 0
        self._steps = 0
        self._firsts = list[int]()  # steps before each stream's first, while they are on credit
        self.overspent = 0.0
        """Tokens kept beyond what was earned; negative: saved."""

    def share(self) -> "BudgetShare":
        """What one of several streams spends by."""
        self.shares += 1
        return BudgetShare(self)

    def keep(self, scores: Float32, *, first: bool | None = None, at_least: int = 0) -> Mask:
        """Decide on the next step.

        Args:
            scores: (N,) float32, higher = keep; infinite = keep if at all possible.
            first: it is the first of its stream; None where there is one stream.
            at_least: tokens to keep whatever the budget says; they are charged to it.

        Returns:
            (N,) bool.

        Raises:
            ScoreEdgeError: a score is NaN, or there are not N.
        """
        if scores.shape != (self._tokens,):
            raise ScoreEdgeError(f"{scores.shape} scores for a step of {self._tokens} visual tokens")
        check_scores(scores)  # before anything is charged
        first = self._steps == 0 if first is None else first
        if first:
            self._firsts.append(self._steps)
        self._steps += 1
        self.overspent -= self.earned
        if first and self._first_whole:
            self.overspent += self._tokens
            whole: Mask = clip_top_k(scores[None], self._tokens)[0]
            return whole
        self._remember(scores)
        bound = self._bound()
        # What the floors of the others may take beyond what is earned meanwhile.
        aside = max(0, self.shares - 1) * max(0.0, 1 - self.earned)
        most = min(self._tokens, math.floor(max(bound, self._credit()) - self.overspent - aside))
        least = min(self._tokens, max(0, math.ceil(-bound - self.overspent)))
        keep: Mask = scores > self._threshold()
        wanted = int(np.count_nonzero(keep))
        count = max(least, min(most, wanted), at_least)
        if count != wanted:
            keep = clip_top_k(scores[None], count)[0] if count > 0 else np.zeros(self._tokens, np.bool_)
        self.overspent += max(0, count)
        return keep

    def rest(self) -> None:
        """Pass over a step in which nothing changed: none of it is kept, and part of a burst is made up for."""
        self._steps += 1
        if self.shares > 1:  # the tokens go to those who show something
            self._remember(np.full(self._tokens, _LOWEST))
        self.overspent = max(self.overspent - self.earned, min(self.overspent, -self._bound()))

    def _bound(self) -> float:
        return min(self._tokens, TOLERANCE * max(self._steps, SETTLED) * self.earned)

    def _credit(self) -> float:
        """A stream may begin with a step's worth that is not earned yet, to be paid back by the time it is settled."""
        self._firsts = [first for first in self._firsts if self._steps - first < SETTLED]
        return sum(self._tokens * (1 - (self._steps - first) / SETTLED) for first in self._firsts)

    def _threshold(self) -> float:
        known = self._recent[: self._written]
        made_up = 1 - self.overspent / (self.earned * _REPAID_OVER)
        count = round(self.retention * min(_FASTEST, max(_SLOWEST, made_up)) * len(known))
        if count >= len(known):
            return -math.inf
        place = len(known) - 1 - count  # `count` scores lie above it
        return float(np.partition(known, place)[place])

    def _remember(self, scores: Float32) -> None:
        scores = scores[np.isfinite(scores)]
        room = len(self._recent) - self._written
        if len(scores) > room:  # the oldest make way
            excess = len(scores) - room
            self._recent[: self._written - excess] = self._recent[excess : self._written]
            self._written -= excess
        self._recent[self._written : self._written + len(scores)] = scores
        self._written += len(scores)


class BudgetShare:
    """One stream's part in a budget that several spend from: see `CausalBudget.share`.

    Its first step is kept by the rule for first steps. Beside others it keeps at least a tenth of what its own steps
    earn, within a token at any time; steps in which nothing changed need none.

    Args:
        budget: of all of them.
    """

    def __init__(self, budget: CausalBudget) -> None:
        self._budget = budget
        self._begun = False
        self._owed = 0.0  # tokens up to the floor

    def keep(self, scores: Float32) -> Mask:
        """Decide on the stream's next step, see `CausalBudget.keep`."""
        owed = self._owed + (_FLOOR * self._budget.earned if self._budget.shares > 1 else 0.0)
        keep = self._budget.keep(scores, first=not self._begun, at_least=math.floor(owed))
        self._begun = True
        self._owed = max(0.0, owed - np.count_nonzero(keep))
        return keep

    def rest(self) -> None:
        """Pass over a step in which nothing changed."""
        self._budget.rest()

    def close(self) -> None:
        """The stream has ended."""
        self._budget.shares -= 1


def select_causally(tokens: Float32, scorer: StepScorer, budget: CausalBudget) -> Mask:
    """What a stream would have kept of a clip.

    Args:
        tokens: (T, N, D) float32.
        scorer: at its beginning.
        budget: of N tokens per step.

    Returns:
        (T, N) bool.
    """
    keep = np.empty(tokens.shape[:2], np.bool_)
    residual = Residual()
    for t, step in enumerate(tokens):
        scores = scorer.score(step, residual.advance(step))
        keep[t] = budget.keep(scores)
        scorer.kept(step, keep[t])
    return keep
