"""``vidcom2``: Video Compression Commander (EMNLP 2025, arXiv 2505.14454), with vLLM's exact count."""

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32
from score_edge.selection.base import ordered_scores

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
_TEMPERATURE = 0.01
_SMALLEST_NORM = 1e-12


class VidCom2:
    """Keeps what is unlike the rest of its step and of the clip; unusual steps get more. Needs the whole clip.

    On the half of the channels that vary least, each token scaled to length 1, the similarity to a centre is
    ``G(x, c) = sum_a exp(-||x - c||^2 / 2a)``. The tokens kept are those whose similarities to the mean of the clip and
    to the mean of the step add up to the least.
    With ``r = count / TN``, ``u = -mean over a step of G(x, clip mean)`` and ``p = softmax(u / 0.01)``, a step's budget
    is ``N min(1, r (1 + p - mean p))`` rounded, at least 1. The budgets need not add up to the count: as in vLLM, the
    most similar of the chosen are dropped, or the least similar of the others added.
    """

    name = "vidcom2"

    def score(self, tokens: Float32, count: int) -> Float32:
        """Score a clip.

        Args:
            tokens: (T, N, D) float32.
            count: tokens the budget will keep.

        Returns:
            (T, N) float32.
        """
        features = _steady_half(tokens)  # (T, N, D // 2)
        centres = features.mean(axis=1)  # (T, D // 2)
        to_clip = _similarity(features, np.broadcast_to(centres.mean(axis=0), centres.shape))
        similarity = to_clip + _similarity(features, centres)
        budgets = _step_budgets(-to_clip.mean(axis=1), count / to_clip.size, tokens.shape[1])
        place = np.argsort(np.argsort(similarity, axis=1, kind="stable"), axis=1)
        return ordered_scores(place < budgets[:, None], -similarity)


def _steady_half(tokens: Float32) -> Float32:
    """(T, N, D // 2) float32: the channels of least variance over the clip, every token scaled to length 1."""
    steps, per_step, width = tokens.shape
    mean = tokens.mean(axis=1).mean(axis=0)  # (D,)
    variance = np.zeros(width)
    for step in tokens:
        deviation = step - mean
        variance += np.einsum("nd,nd->d", deviation, deviation)
    steady = np.sort(np.argsort(variance, kind="stable")[: max(1, width // 2)])
    features = np.empty((steps, per_step, len(steady)), np.float32)
    for step, chosen in zip(tokens, features, strict=True):
        np.take(step, steady, axis=1, out=chosen)
        norm = np.sqrt(np.einsum("nd,nd->n", chosen, chosen))
        chosen /= np.maximum(norm, _SMALLEST_NORM)[:, None]
    return features


def _similarity(features: Float32, centres: Float32) -> NDArray[np.float64]:
    """(T, N) float64: G of each token of (T, N, C) features and the centre of its step, (T, C)."""
    squares = np.einsum("tnc,tnc->tn", features, features)
    products = np.matmul(features, centres[:, :, None])[..., 0]
    distance = squares - 2.0 * products + np.einsum("tc,tc->t", centres, centres)[:, None]
    total = np.zeros(distance.shape)
    for width in _WIDTHS:
        total += np.exp(-distance / (2 * width))
    return total


def _step_budgets(unusual: NDArray[np.float64], retention: float, tokens_per_step: int) -> NDArray[np.float64]:
    """(T,) whole numbers: how many tokens each step may keep before the count is made exact."""
    weight = np.exp((unusual - unusual.max()) / _TEMPERATURE)
    share = weight / weight.sum()
    scale = np.minimum(1, retention * (1 + share - share.mean()))
    budgets: NDArray[np.float64] = np.clip(np.rint(scale * tokens_per_step), 1, tokens_per_step)
    return budgets
