"""What INT8 does to tokens, to their change from step to step, and to the choice of which are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from score_edge.core import Float32
from score_edge.selection.budget import clip_top_k, token_count
from score_edge.selection.registry import Selector

RETENTIONS = (0.25, 0.1)


@dataclass(frozen=True, slots=True)
class TokenError:
    """How far rows are from those of FP32, over all held-out steps.

    Attributes:
        cosine, worst_cosine: of FP32's row and INT8's, mean and smallest.
        error, worst_error: ``||int8 - fp32|| / ||fp32||``, of all rows together and of the worst row.
    """

    cosine: float
    worst_cosine: float
    error: float
    worst_error: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of the tokens kept with FP32 that are kept with INT8 too, mean over held-out runs.

    The first step of a run is kept entirely, as in a stream, and does not count: most selectors have nothing to
    compare it with and take it first, so that with short runs little else would be compared.

    Attributes:
        by_chance: what a random choice would share.
    """

    selector: str
    retention: float
    overlap: float
    by_chance: float


@dataclass(frozen=True, slots=True)
class Fidelity:
    """INT8 beside FP32 on steps it was not calibrated on.

    Attributes:
        output: of the encoder.
        tokens: of the output itself.
        residual: error of x[t] - x[t-1], relative to it, over all tokens.
        residual_kept: the same over the tenth of the tokens that changed most, which selectors look for.
        agreement: per retention.
        steps: held-out steps measured.
    """

    output: str
    tokens: TokenError
    residual: float
    residual_kept: float
    agreement: list[Agreement]
    steps: int

    @property
    def loss(self) -> float:
        """1 - cosine of the worst token: what a bound is put on."""
        return 1 - self.tokens.worst_cosine


def measure_fidelity(
    expected: Sequence[Float32],
    found: Sequence[Float32],
    selector: Callable[[], Selector],
    retentions: Sequence[float] = RETENTIONS,
) -> Fidelity:
    """Compare the tokens of held-out runs.

    Args:
        expected: of FP32, per run (T, N, D) of consecutive steps.
        found: of INT8, the same runs.
        selector: makes the selector whose choice is compared.
        retentions: shares of tokens to keep.

    Example:
        >>> measure_fidelity(runs, int8_runs, lambda: pipeline.selector()).agreement[1].overlap  # doctest: +SKIP
        0.97
    """
    residuals = [_residuals(runs) for runs in (expected, found)]
    sizes = np.linalg.norm(residuals[0], axis=1)
    largest = np.argsort(-sizes, kind="stable")[: max(1, len(sizes) // 10)]
    return Fidelity(
        "tokens",
        difference(_rows(expected), _rows(found)),
        _relative(residuals[0], residuals[1]),
        _relative(residuals[0][largest], residuals[1][largest]),
        [_agreement(expected, found, selector(), retention) for retention in retentions],
        sum(len(run) for run in expected),
    )


def difference(expected: Float32, found: Float32) -> TokenError:
    """Of (M, D) rows, computed in float64; two zero rows are equal."""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    norms, others = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    apart = np.linalg.norm(one - other, axis=1)
    lengths = norms * others
    cosine = np.divide((one * other).sum(axis=1), lengths, out=(apart == 0).astype(np.float64), where=lengths > 0)
    errors = apart / np.maximum(norms, 1e-30)
    return TokenError(float(cosine.mean()), float(cosine.min()), _relative(expected, found), float(errors.max()))


def _agreement(
    expected: Sequence[Float32], found: Sequence[Float32], selector: Selector, retention: float
) -> Agreement:
    shares, chances = [], []
    for run, other in zip(expected, found, strict=True):
        steps, tokens, _ = run.shape
        count = token_count(steps - 1, tokens, retention)
        kept, kept_other = (clip_top_k(selector.score(x, tokens + count)[1:], count) for x in (run, other))
        shares.append((kept & kept_other).sum() / count)
        chances.append(count / kept.size)
    return Agreement(selector.name, retention, float(np.mean(shares)), float(np.mean(chances)))


def _relative(expected: Float32, found: Float32) -> float:
    apart = np.linalg.norm(expected.astype(np.float64) - found)
    return float(apart / max(float(np.linalg.norm(expected.astype(np.float64))), 1e-30))


def _rows(runs: Sequence[Float32]) -> Float32:
    return np.concatenate([run.reshape(-1, run.shape[-1]) for run in runs])


def _residuals(runs: Sequence[Float32]) -> Float32:
    return np.concatenate([np.diff(run, axis=0).reshape(-1, run.shape[-1]) for run in runs])
