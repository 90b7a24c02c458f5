"""What a visual token is compared with: the token at the same place one step earlier, and the background there.

This is the one definition of both references; the policy's graph forms the residuals itself. At step 0 a reference is
zero, so that the residual of the first step is the step itself.

The residual to the step before is the paper's. It does not see what moves slowly: over one step a drift is no more
than noise. The background is the running average of what was at a place, as in background subtraction: there a drift
adds up.
"""

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError

BACKGROUND_RATE = np.float32(1 / 8)  # share of a step in the running average: eight steps are remembered


def previous_tokens(tokens: Float32) -> Float32:
    """The reference row of every token of a clip.

    Args:
        tokens: (T, N, D) float32.

    Returns:
        (T, N, D) float32: zeros at step 0, the step before elsewhere.

    Example:
        >>> previous_tokens(np.ones((2, 1, 1), np.float32)).ravel()
        array([0., 1.], dtype=float32)
    """
    previous = np.empty_like(tokens)
    previous[:1] = 0
    previous[1:] = tokens[:-1]
    return previous


def background_tokens(tokens: Float32) -> Float32:
    """The running average of what stood at every place before each step of a clip.

    b[1] = x[0], then b[t + 1] = b[t] + BACKGROUND_RATE * (x[t] - b[t]).

    Args:
        tokens: (T, N, D) float32.

    Returns:
        (T, N, D) float32: zeros at step 0.

    Example:
        >>> background_tokens(np.array([[[0]], [[8]], [[0]]], np.float32)).ravel()
        array([0., 0., 1.], dtype=float32)
    """
    found = np.zeros_like(tokens)
    found[1:2] = tokens[:1]
    for t in range(2, len(tokens)):
        found[t] = found[t - 1] + BACKGROUND_RATE * (tokens[t - 1] - found[t - 1])
    return found


class Residual:
    """The step before, for an endless stream: two buffers of one step, nothing allocated after the first."""

    def __init__(self) -> None:
        self._previous: Float32 | None = None
        self._spare: Float32 | None = None

    def advance(self, step: Float32) -> Float32:
        """Take the next step in and give back the one before it.

        Args:
            step: (N, D) float32; copied, so the caller may reuse it.

        Returns:
            (N, D) float32, zeros for the first step; overwritten by the next call.

        Raises:
            ScoreEdgeError: the step has another shape than the one before it.
        """
        if self._previous is None or self._spare is None:
            self._previous, self._spare = np.zeros_like(step), np.empty_like(step)
        if step.shape != self._previous.shape:
            raise ScoreEdgeError(
                f"the visual tokens of a step changed shape from {self._previous.shape} to {step.shape} in mid-stream",
                "call reset() when the source or its resolution changes",
            )
        previous = self._previous
        np.copyto(self._spare, step)
        self._previous, self._spare = self._spare, previous
        return previous

    def reset(self) -> None:
        """Forget the stream: the next step is a first step, of any shape."""
        self._previous = self._spare = None
