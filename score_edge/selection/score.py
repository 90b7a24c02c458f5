"""``score``: the learned policy's odds that a token is worth keeping."""

from collections.abc import Callable

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.selection.base import StepScorer
from score_edge.selection.dither import log_odds
from score_edge.selection.residual import previous_tokens

KeepProbability = Callable[[Float32, Float32], Float32]
"""A policy: tokens (M, D) and previous (M, D) float32 to keep probabilities (M,) float32."""

QueryPolicy = Callable[[Float32, Float32, Float32], Float32]
"""One that knows the question: the same, and (1, D) float32, the mean of its words' rows."""

_ROWS = 4096  # rows per call, which bounds the memory of the graph whatever the length of the clip


class Score:
    """Scores each token with a policy that sees the token and its predecessor, and nothing else.

    Args:
        policy: see `KeepProbability`; `runtime.graphs.open_graph.open_policy` makes one of a bundle's graph.
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
        steps, per_step, width = tokens.shape
        rows, previous = tokens.reshape(-1, width), previous_tokens(tokens).reshape(-1, width)
        keep = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            keep[part] = _rate(self.policy, rows[part], previous[part])
        return log_odds(keep.reshape(steps, per_step))

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep(self.policy)


class _ByStep(StepScorer):
    def __init__(self, policy: KeepProbability) -> None:
        self._policy = policy

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        return log_odds(_rate(self._policy, tokens, previous))


def _rate(policy: KeepProbability, tokens: Float32, previous: Float32) -> Float32:
    keep = policy(tokens, previous)
    if keep.shape != tokens.shape[:1]:
        raise ScoreEdgeError(f"the policy gave {keep.shape} for {len(tokens)} tokens, not one value each")
    return keep
