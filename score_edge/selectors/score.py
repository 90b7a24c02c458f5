"""``score``: the learned policy, the probability that a token is worth keeping."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.residual import previous_tokens
from score_edge.selectors.base import StepScorer

Policy = Callable[[Float32, Float32], Float32]

_ROWS = 4096  # rows per call, which bounds the memory of the graph whatever the length of the clip


class Score:
    """Scores each token with a policy that sees the token and its predecessor, and nothing else.

    Args:
        policy: a graph with inputs ``tokens`` (M, D) and ``previous`` (M, D) and output ``keep`` (M,), all float32, or
            a function of the same signature.

    Raises:
        ScoreEdgeError: the graph is missing, broken or has other inputs and outputs.
    """

    name = "score"

    def __init__(self, policy: Path | Policy) -> None:
        self._policy = _open(policy) if isinstance(policy, Path) else policy

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: not used.

        Returns:
            (T, N) float32, the keep probability.

        Raises:
            ScoreEdgeError: the policy was made for another width, or returns something other than one value per row.
        """
        steps, per_step, width = tokens.shape
        rows, previous = tokens.reshape(-1, width), previous_tokens(tokens).reshape(-1, width)
        keep = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            keep[part] = _rate(self._policy, rows[part], previous[part])
        return keep.reshape(steps, per_step)

    def by_step(self) -> StepScorer:
        """The same for a stream."""
        return _ByStep(self._policy)


class _ByStep(StepScorer):
    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def score(self, tokens: Float32, previous: Float32) -> Float32:
        return _rate(self._policy, tokens, previous)


def _rate(policy: Policy, tokens: Float32, previous: Float32) -> Float32:
    keep = policy(tokens, previous)
    if keep.shape != tokens.shape[:1]:
        raise ScoreEdgeError(f"the policy gave {keep.shape} for {len(tokens)} tokens, not one value each")
    return keep


def _open(path: Path) -> Policy:
    """A policy graph on ONNX Runtime, as a function."""
    if not path.is_file():
        raise ScoreEdgeError(f"no policy graph at {path}", "choose another selector, or a bundle that has a policy")
    import onnxruntime  # and only the policy pays for loading it

    try:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # else idle threads slow the prefill
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a class of its own per kind of broken file
        reason = str(error).splitlines()[0]
        raise ScoreEdgeError(f"{path} is not a graph that ONNX Runtime can open: {reason}") from error
    inputs = {value.name: value.shape for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    if set(inputs) != {"tokens", "previous"} or outputs != ["keep"]:
        raise ScoreEdgeError(
            f"{path} is not a policy: it maps {', '.join(inputs)} to {', '.join(outputs)}",
            "a policy maps tokens and previous to keep",
        )
    expected = inputs["tokens"][-1]

    def run(tokens: Float32, previous: Float32) -> Float32:
        if isinstance(expected, int) and tokens.shape[1] != expected:
            raise ScoreEdgeError(
                f"{path} is for visual tokens of width {expected}, these have {tokens.shape[1]}",
                "use the policy that was trained with this encoder",
            )
        keep: Float32 = session.run(["keep"], {"tokens": tokens, "previous": previous})[0]
        return keep

    return run
