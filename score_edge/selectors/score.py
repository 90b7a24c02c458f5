"""``score``: the learned policy's odds that a token is worth keeping, plus the token's turn."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.graph import OnnxGraph
from score_edge.runtime.residual import previous_tokens
from score_edge.selectors.base import StepScorer
from score_edge.selectors.turns import SPREAD, take_turns

Policy = Callable[[Float32, Float32], Float32]

_ROWS = 4096  # rows per call, which bounds the memory of the graph whatever the length of the clip


class Score:
    """Scores each token with a policy that sees the token and its predecessor, and nothing else; see `take_turns`.

    Args:
        policy: a graph with inputs ``tokens`` (M, D) and ``previous`` (M, D) and output ``keep`` (M,), all float32, or
            a function of the same signature.
        threads: CPU threads of a graph; None lets ONNX Runtime choose.
        spread: see `take_turns`; 0 keeps the k most probable, as the paper does.

    Attributes:
        policy: the graph as a function.

    Raises:
        ScoreEdgeError: the graph is missing, broken or has other inputs and outputs.
    """

    name = "score"

    def __init__(self, policy: Path | Policy, threads: int | None = None, spread: float = SPREAD) -> None:
        self.policy = _open(policy, threads) if isinstance(policy, Path) else policy
        self._spread = spread

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, the log-odds of keeping plus the token's turn.

        Raises:
            ScoreEdgeError: the policy was made for another width, or returns something other than one value per row.
        """
        steps, per_step, width = tokens.shape
        rows, previous = tokens.reshape(-1, width), previous_tokens(tokens).reshape(-1, width)
        keep = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            keep[part] = _rate(self.policy, rows[part], previous[part])
        return take_turns(keep.reshape(steps, per_step), 0, self._spread)

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep(self.policy, self._spread)


class _ByStep(StepScorer):
    def __init__(self, policy: Policy, spread: float) -> None:
        self._policy, self._spread = policy, spread
        self._steps = 0

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        (scores,) = take_turns(_rate(self._policy, tokens, previous)[None], self._steps, self._spread)
        self._steps += 1
        return np.asarray(scores)


def _rate(policy: Policy, tokens: Float32, previous: Float32) -> Float32:
    keep = policy(tokens, previous)
    if keep.shape != tokens.shape[:1]:
        raise ScoreEdgeError(f"the policy gave {keep.shape} for {len(tokens)} tokens, not one value each")
    return keep


def _open(path: Path, threads: int | None) -> Policy:
    """A policy graph as a function."""
    if not path.is_file():
        raise ScoreEdgeError(f"no policy graph at {path}", "choose another selector, or a bundle that has a policy")
    graph = OnnxGraph(path, threads=threads)
    if set(graph.inputs) != {"tokens", "previous"} or set(graph.outputs) != {"keep"}:
        raise ScoreEdgeError(
            f"{path} is not a policy: it maps {', '.join(graph.inputs)} to {', '.join(graph.outputs)}",
            "a policy maps tokens and previous to keep",
        )
    expected = graph.inputs["tokens"][-1]

    def run(tokens: Float32, previous: Float32) -> Float32:
        if isinstance(expected, int) and tokens.shape[1] != expected:
            raise ScoreEdgeError(
                f"{path} is for visual tokens of width {expected}, these have {tokens.shape[1]}",
                "use the policy that was trained with this encoder",
            )
        keep: Float32 = graph.run(tokens=tokens, previous=previous)["keep"]
        return keep

    return run
