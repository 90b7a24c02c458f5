"""``score`` and ``score-query``: the learned policies' odds that a token is worth keeping."""

from collections.abc import Callable

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.selection.base import StepScorer
from score_edge.selection.dither import log_odds
from score_edge.selection.residual import background_tokens, previous_tokens

KeepProbability = Callable[..., Float32]
"""A policy: tokens (M, D) and what they are compared with, (M, D) float32 each, to keep probabilities (M,) float32."""

QueryPolicy = Callable[[Float32, Float32, Float32, Float32], Float32]
"""One that knows the question: tokens, previous, background, and (1, D) float32, the mean of its words' rows."""

_ROWS = 4096  # rows per call, which bounds the memory of the graph whatever the length of the clip


class Score:
    """Scores each token with a policy that sees the token and its predecessor, and nothing else.

    Args:
        policy: of tokens and previous; `runtime.graphs.open_graph.open_policy` makes one of a bundle's graph.
    """

    name = "score"

    def __init__(self, policy: KeepProbability) -> None:
        self.policy = policy

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, the log-odds of keeping.

        Raises:
            ScoreEdgeError: the policy was made for another width, or returns something other than one value per row.
        """
        return _score(self.policy, tokens, previous_tokens(tokens))

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep(self.policy)


class ScoreQuery:
    """Scores each token of a clip for one question; it also sees the background, against which slow drifts add up.

    Args:
        policy: of tokens, previous and background; it has its question already.
    """

    name = "score-query"

    def __init__(self, policy: KeepProbability) -> None:
        self.policy = policy

    def score(self, tokens: Float32, count: int) -> Float32:
        """As `Score.score`."""
        return _score(self.policy, tokens, previous_tokens(tokens), background_tokens(tokens))


class _ByStep(StepScorer):
    def __init__(self, policy: KeepProbability) -> None:
        self._policy = policy

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        return log_odds(_rate(self._policy, tokens, previous))


def _score(policy: KeepProbability, tokens: Float32, *compared: Float32) -> Float32:
    """(T, N) log-odds of a clip's tokens (T, N, D), compared with those rows of the same shape."""
    steps, per_step, width = tokens.shape
    seen = [rows.reshape(-1, width) for rows in (tokens, *compared)]
    keep = np.empty(steps * per_step, np.float32)
    for start in range(0, len(keep), _ROWS):
        part = slice(start, start + _ROWS)
        keep[part] = _rate(policy, *(rows[part] for rows in seen))
    return log_odds(keep.reshape(steps, per_step))


def _rate(policy: KeepProbability, tokens: Float32, *compared: Float32) -> Float32:
    keep = policy(tokens, *compared)
    if keep.shape != tokens.shape[:1]:
        raise ScoreEdgeError(f"the policy gave {keep.shape} for {len(tokens)} tokens, not one value each")
    return keep
