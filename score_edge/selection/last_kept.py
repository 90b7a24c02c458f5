"""``last-kept``: change since the token was last kept, the gate of Eventful Transformers (ICCV 2023)."""

import math

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.selection.base import StepScorer

_ROUNDS = 16  # most clips need 3 to 7
_MANY = 64


class LastKept:
    """Keeps a token when ``e = ||x - p||`` reaches a threshold, and only then makes it the reference p of its place.

    Slow drift therefore adds up until it fires, which a selector that looks at the step before never sees. Step 0 is
    kept entirely. The threshold is found per clip, by a bracketed secant search, so that as many tokens fire as the
    budget keeps; what fired outscores what did not. One firing more changes all that follow in its place, so often no
    threshold fires the exact count: then the nearest is taken, and the top-k drops the weakest few or adds the next.
    """

    name = "last-kept"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: tokens the budget will keep.

        Returns:
            (T, N) float32, infinite at step 0, then e.
        """
        return _search(tokens, count).change

    def by_step(self) -> StepScorer:
        """The gate itself for a stream: what the budget keeps becomes the reference."""
        return _ByStep()


class _ByStep(StepScorer):
    def __init__(self) -> None:
        self._reference: Float32 | None = None  # (N, D), each token as it was last kept; NaN where it never was

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        if self._reference is None:
            self._reference = np.full_like(tokens, np.nan)
        distance = _distance(tokens, self._reference)
        distance[np.isnan(self._reference[:, 0])] = np.inf
        return distance

    def kept(self, tokens: Float32, keep: Mask) -> None:
        if self._reference is not None:
            self._reference[keep] = tokens[keep]


def _distance(tokens: Float32, reference: Float32) -> Float32:
    difference = tokens - reference
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", difference, difference)))


class _Gate:
    """Runs the gate at one threshold after another.

    A reference is the step it was kept at. Nearby thresholds share most of them, so each run measures only the tokens
    whose reference differs from that of the run before.
    """

    def __init__(self, tokens: Float32) -> None:
        self._tokens = tokens
        self._measured = np.full(tokens.shape[:2], -1)  # (T, N), the reference behind each change
        self.change = np.full(tokens.shape[:2], np.inf, np.float32)  # (T, N)
        self.threshold = math.nan

    def run(self, threshold: float) -> int:
        """Fill ``change`` at this threshold; returns how many tokens fired, step 0 included."""
        self.threshold = threshold
        reference = np.zeros(self._tokens.shape[1], np.intp)
        for t in range(1, len(self._tokens)):
            stale = np.flatnonzero(self._measured[t] != reference)
            if stale.size:
                past = reference[stale]
                self.change[t, stale] = _distance(self._tokens[t, stale], self._tokens[past, stale])
                self._measured[t, stale] = past
            reference[self.change[t] >= threshold] = t
        return int(np.count_nonzero(self.change >= threshold))


def _search(tokens: Float32, count: int, slack: int = 0) -> _Gate:
    """The gate, last run at the threshold that fires the count, give or take the slack, or else the nearest found."""
    gate = _Gate(tokens)
    places = tokens.shape[1]
    if count <= places:
        gate.run(math.inf)
        return gate
    low, high, threshold = 0.0, math.inf, 0.0
    if places >= _MANY:  # a quarter of the places has nearly the same threshold and finds it in a quarter of the time
        some = tokens[:, ::4]
        share = count * some.shape[1] // places
        threshold = _search(some, max(share, some.shape[1] + 1), slack=share // 50).threshold
    runs: list[tuple[float, int]] = []
    for _ in range(_ROUNDS):
        fired = gate.run(threshold)
        runs.append((threshold, fired))
        # Were all references to stay as they are, the threshold that meets the count would be exactly this one.
        guess = float(np.partition(gate.change, -count, axis=None)[-count])
        if abs(fired - count) <= slack or guess == threshold:
            return gate
        low, high = (threshold, high) if fired > count else (low, threshold)
        within = [value for value in (_secant(runs, count), guess, (low + high) / 2) if low < value < high]
        if not within:
            break
        threshold = within[0]
    gate.run(min(runs, key=lambda run: abs(run[1] - count))[0])
    return gate


def _secant(runs: list[tuple[float, int]], count: int) -> float:
    """The threshold that meets the count if the last two runs lie on a power law, as they nearly do under drift."""
    if len(runs) < 2 or runs[-2][0] == 0:
        return math.nan
    (first, many), (second, few) = runs[-2:]
    if many == few:
        return math.nan
    exponent = math.log(second / first) / math.log(few / many)
    return second * math.exp(min(1.0, exponent * math.log(count / few)))  # one step at most e times higher
