"""The report's figures against plain numpy on hand-made tokens."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from score_edge.calibration.fidelity import difference, measure_fidelity
from score_edge.calibration.trials import best_trial
from score_edge.core import Grid
from score_edge.selection.registry import get_selector

RNG = np.random.default_rng(0)
RUNS = [RNG.standard_normal((6, 9, 5)).astype(np.float32) for _ in range(3)]


def selector():
    return get_selector("evs", grid=Grid(3, 3))


def test_nothing_changed() -> None:
    found = measure_fidelity(RUNS, RUNS, selector)
    assert found.loss == pytest.approx(0, abs=1e-12)
    assert found.tokens.worst_error == found.residual == found.residual_kept == 0
    assert [row.overlap for row in found.agreement] == [1, 1]
    assert found.steps == 18


def test_one_bad_token_among_many_is_seen() -> None:
    bad = [run.copy() for run in RUNS]
    bad[1][2, 3] *= -1
    found = measure_fidelity(RUNS, bad, selector)
    assert found.tokens.worst_cosine == pytest.approx(-1)
    assert found.tokens.worst_error == pytest.approx(2)
    assert found.tokens.cosine == pytest.approx(1 - 2 / 162)


def test_errors_of_tokens_and_residuals() -> None:
    noise = [0.1 * RNG.standard_normal(run.shape).astype(np.float32) for run in RUNS]
    found = measure_fidelity(RUNS, [run + extra for run, extra in zip(RUNS, noise, strict=True)], selector)
    flat, apart = np.concatenate(RUNS).astype(np.float64), np.concatenate(noise).astype(np.float64)
    assert found.tokens.error == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(flat), rel=1e-5)
    changes = [np.concatenate([np.diff(run, axis=0) for run in runs]) for runs in (RUNS, noise)]
    assert found.residual == pytest.approx(np.linalg.norm(changes[1]) / np.linalg.norm(changes[0]), rel=1e-5)


def test_a_small_residual_of_large_tokens_carries_the_noise_of_both() -> None:
    """Tokens that hardly change: an error of 1 % in them is of the order of the change itself."""
    still = [np.repeat(run[:1], 6, axis=0) + 0.02 * run for run in RUNS]
    noisy = [run * (1 + 0.01 * RNG.standard_normal(run.shape)).astype(np.float32) for run in still]
    found = measure_fidelity(still, noisy, selector)
    assert found.tokens.error < 0.02 < 0.3 < found.residual


def test_agreement_is_the_share_of_tokens_kept_by_both() -> None:
    """Scores of evs: of three tokens that change, one is another; step 0, which both keep whole, does not count."""
    run = np.tile(np.eye(5, dtype=np.float32)[[0] * 10], (2, 1, 1))
    one, other = run.copy(), run.copy()
    one[1, [2, 3, 4]], other[1, [2, 3, 7]] = np.eye(5)[1], np.eye(5)[1]
    (row,) = measure_fidelity([one], [other], selector, (0.3,)).agreement
    assert row.overlap == pytest.approx(2 / 3) and row.by_chance == pytest.approx(0.3)


def test_the_tenth_that_changed_most_is_measured_by_itself() -> None:
    run = np.stack([np.ones((20, 1)), 2 + np.arange(20)[:, None]]).astype(np.float32)  # changes of 1 to 20
    off = run.copy()
    off[1, [18, 19]] += 1
    found = measure_fidelity([run], [off], selector, ())
    assert found.residual_kept == pytest.approx(np.sqrt(2 / (19**2 + 20**2)))


def test_a_selector_that_keeps_the_first_step_has_as_many_tokens_left_for_the_others() -> None:
    asked = []

    class Counting:
        name = "counting"

        def score(self, tokens: np.ndarray, count: int) -> np.ndarray:
            asked.append(count)
            return np.zeros(tokens.shape[:2], np.float32)

    measure_fidelity(RUNS[:1], RUNS[:1], Counting, (0.2,))
    assert asked == [9 + 9] * 2  # the first step, and a fifth of five more


def test_rows_of_zeros() -> None:
    rows = np.zeros((2, 3), np.float32)
    assert difference(rows, rows).worst_cosine == 1
    assert difference(rows, rows + 1).worst_cosine == 0


@pytest.mark.parametrize(("bound", "taken"), [(0.02, "fast"), (0.002, "exact"), (0.0002, None)])
def test_the_fastest_within_the_bound_is_taken(bound: float, taken: str | None) -> None:
    def trial(name: str, loss: float, milliseconds: float) -> Any:
        return SimpleNamespace(variant=name, accuracy=SimpleNamespace(loss=loss), milliseconds=milliseconds)

    best = best_trial([trial("slow", 0.001, 3), trial("exact", 0.001, 2), trial("fast", 0.01, 1)], bound)
    assert (best and best.variant) == taken
