"""Which tokens are kept, given scores: the exact top-k over a whole clip."""

import numpy as np

from score_edge.core import Float32, Mask
from score_edge.errors import ScoreEdgeError


def token_count(steps: int, tokens_per_step: int, retention: float) -> int:
    """How many tokens of a clip a retention keeps.

    Args:
        steps: T.
        tokens_per_step: N.
        retention: kept / all visual tokens, in (0, 1].

    Returns:
        ``retention * T * N`` rounded, at least 1.

    Raises:
        ScoreEdgeError: the retention is outside (0, 1], or the clip has no tokens.

    Example:
        >>> token_count(steps=64, tokens_per_step=196, retention=0.1)
        1254
    """
    if not 0 < retention <= 1:
        raise ScoreEdgeError(
            f"retention {retention} is outside (0, 1]", "0.1 keeps 10 % of the visual tokens, 1 keeps all of them"
        )
    total = steps * tokens_per_step
    if total < 1:
        raise ScoreEdgeError(f"a clip of {steps} steps of {tokens_per_step} visual tokens has nothing to keep")
    return max(1, round(retention * total))


def clip_top_k(scores: Float32, count: int) -> Mask:
    """Keep the highest scores of a clip, exactly as many as asked for.

    Among equal scores the earlier token wins: earlier step first, then raster order.

    Args:
        scores: (T, N) float32, higher = keep; infinities are allowed.
        count: tokens to keep, from 1 to T * N.

    Returns:
        (T, N) bool with exactly ``count`` True.

    Raises:
        ScoreEdgeError: a score is NaN, or the count does not fit the clip.
    """
    flat = scores.ravel()
    if not 1 <= count <= flat.size:
        raise ScoreEdgeError(f"cannot keep {count} of {flat.size} visual tokens")
    check_scores(flat)
    least = np.partition(flat, flat.size - count)[flat.size - count]
    mask: Mask = flat > least
    ties = np.flatnonzero(flat == least)
    mask[ties[: count - np.count_nonzero(mask)]] = True
    return mask.reshape(scores.shape)


def check_scores(scores: Float32) -> None:
    """Refuse scores of which some are NaN.

    Raises:
        ScoreEdgeError: with how many.
    """
    if broken := np.count_nonzero(np.isnan(scores)):
        raise ScoreEdgeError(
            f"{broken} of {scores.size} token scores are not a number",
            "the visual tokens are not finite: check the encoder, an FP16 graph may overflow",
        )
