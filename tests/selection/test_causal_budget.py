"""The causal budget: what it promises in the long run, in a burst and in a quiet hour."""

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.selection.causal_budget import SETTLED, TOLERANCE, CausalBudget, select_causally
from score_edge.selection.registry import get_selector, step_scorer

N = 36
NAMES = ["evs", "last-kept", "surge", "random"]


def scores(kind: str, steps: int, n: int = N, seed: int = 0) -> np.ndarray:
    """(T, N) float32 scores of many characters."""
    rng = np.random.default_rng(seed)
    noise = rng.random((steps, n)).astype(np.float32)
    t = np.arange(steps)[:, None]
    shaped = {
        "noise": noise,
        "falling": noise * np.exp(-t / 40),
        "rising": noise * np.exp(t / 40),
        "equal": np.ones_like(noise),
        "bursts": noise + 5 * ((t % 37) < 3) * (noise > 0.5),
        "cuts": noise + 100 * (t % 60 == 59),
        "levels": np.floor(noise * 3),
        "heavy tailed": rng.standard_cauchy((steps, n)),
    }[kind].astype(np.float32)
    shaped[0] = np.inf
    return shaped


KINDS = ["noise", "falling", "rising", "equal", "bursts", "cuts", "levels", "heavy tailed"]


@pytest.mark.parametrize("retention", [0.02, 0.05, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_long_run_retention_is_within_two_percent_from_step_200_on(kind: str, retention: float) -> None:
    steps = 600
    budget = CausalBudget(N, retention)
    kept = np.cumsum([budget.keep(row).sum() for row in scores(kind, steps)])
    t = np.arange(1, steps + 1)
    off = kept / (t * N * retention) - 1
    assert np.abs(off[SETTLED:]).max() <= TOLERANCE + 1e-6


@pytest.mark.parametrize("retention", [0.05, 0.1, 0.25])
def test_a_stream_begins_whole_and_a_late_cut_is_kept_nearly_whole(retention: float) -> None:
    budget = CausalBudget(N, retention)
    rows = scores("noise", 1200)
    rows[1100] += 100
    kept = [budget.keep(row).sum() for row in rows]
    assert kept[0] == N
    assert kept[1100] >= 0.9 * N  # what is still owed for small bursts comes off


def test_a_burst_gets_more_than_its_share_and_is_made_up_for() -> None:
    budget = CausalBudget(N, 0.1)
    rows = scores("noise", 600)
    rows[400:403, :8] += 10
    kept = np.array([budget.keep(row) for row in rows])
    assert kept[400:403, :8].all()
    assert kept[403:420].sum() < 0.9 * 17 * N * 0.1
    assert abs(budget.overspent) < 4 * N * 0.1


def test_a_quiet_hour_costs_nothing_and_saves_a_bounded_burst() -> None:
    budget = CausalBudget(N, 0.1)
    rows = scores("noise", 300)
    for row in rows:
        budget.keep(row)
    for _ in range(7200):
        budget.rest()
    assert -N <= budget.overspent < 0
    # What was saved and what may be borrowed: two steps at most, at once.
    woken = [budget.keep(row).sum() for row in scores("noise", 3)[1:] + 100]
    assert woken[0] == N and sum(woken) <= 2 * N


def test_unchanged_scores_do_not_blow_up_the_threshold() -> None:
    budget = CausalBudget(N, 0.1)
    for row in np.zeros((50, N), np.float32):
        assert budget.keep(row).sum() <= N


@pytest.mark.parametrize("retention", [0.0, -1.0, 1.01])
def test_impossible_retention(retention: float) -> None:
    with pytest.raises(ScoreEdgeError, match="outside"):
        CausalBudget(N, retention)


def test_scores_that_are_not_numbers_are_refused() -> None:
    budget = CausalBudget(N, 0.5)
    row = scores("noise", 2)[1]
    row[3] = np.nan
    with pytest.raises(ScoreEdgeError, match="not a number"):
        budget.keep(row)
    with pytest.raises(ScoreEdgeError, match="visual tokens"):
        budget.keep(row[:5])


def test_what_is_refused_costs_nothing() -> None:
    budget, broken = CausalBudget(N, 0.1), np.full(N, np.nan, np.float32)
    shares = [budget.share(), budget.share()]
    for _ in range(20):
        with pytest.raises(ScoreEdgeError, match="not a number"):
            shares[0].keep(broken)
    fresh = CausalBudget(N, 0.1)
    others = [fresh.share(), fresh.share()]
    for row in scores("noise", 50):
        assert np.array_equal(shares[0].keep(row), others[0].keep(row))
        assert np.array_equal(shares[1].keep(row), others[1].keep(row))


@pytest.mark.parametrize("name", NAMES)
def test_selectors_keep_their_share_of_a_scene(name: str) -> None:
    rng = np.random.default_rng(3)
    tokens = np.cumsum(rng.standard_normal((300, N, 8)) * (rng.random((300, N, 1)) < 0.1), axis=0).astype(np.float32)
    tokens += 0.01 * rng.standard_normal(tokens.shape).astype(np.float32)
    keep = select_causally(tokens, step_scorer(get_selector(name)), CausalBudget(N, 0.1))
    assert keep.mean() == pytest.approx(0.1, rel=TOLERANCE)


@pytest.mark.parametrize("retention", [0.02, 0.05, 0.1, 0.25])
@pytest.mark.parametrize("cameras", [2, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_several_streams_hold_one_budget_and_each_has_its_floor(kind: str, cameras: int, retention: float) -> None:
    steps = 400
    rows = [scores(kind, steps, seed=camera) for camera in range(cameras)]
    for row in rows[1:]:
        row[1:] -= 1000  # only the first shows anything
    shared = CausalBudget(N, retention)
    shares = [shared.share() for _ in rows]
    kept = np.array([[share.keep(row[t]).sum() for share, row in zip(shares, rows, strict=True)] for t in range(steps)])
    assert (kept[0] == N).all()
    total = np.arange(1, kept.size + 1)
    off = np.cumsum(kept) / (total * N * retention) - 1
    settled = max(SETTLED, int(1.3 * cameras / retention))  # until the first steps are paid for
    assert np.abs(off[settled:]).max() <= TOLERANCE + 1e-6
    earned = retention * N * np.arange(1, steps)
    owed = 0.1 * earned[:, None] - np.cumsum(kept[1:], axis=0)
    # In any stretch at least the floor, within a token.
    worst = owed - np.minimum.accumulate(np.vstack([np.zeros(cameras), owed]), axis=0)[:-1]
    assert worst.max() < 1 + 1e-6


def test_what_is_shown_gets_the_tokens_whoever_shows_it() -> None:
    shared = CausalBudget(N, 0.1)
    busy, still = shared.share(), shared.share()
    rows = scores("noise", 400)
    kept = np.array([(busy.keep(row + 1).sum(), still.keep(row).sum()) for row in rows])
    assert kept[1:, 0].sum() > 5 * kept[1:, 1].sum()


@pytest.mark.parametrize("resting", [1, 3])
def test_what_a_still_camera_spares_goes_to_the_others(resting: int) -> None:
    shared = CausalBudget(N, 0.1)
    busy, *still = [shared.share() for _ in range(1 + resting)]
    rows, kept = scores("noise", 600), []
    for row in rows:
        kept.append(busy.keep(row).sum())
        for share in still:
            share.rest()
    rate = np.sum(kept[200:]) / (400 * N * 0.1 * (1 + resting))
    assert 0.85 < rate < 1.02


def test_one_stream_alone_spends_as_without_a_share() -> None:
    rows = scores("bursts", 400)
    alone, shared = CausalBudget(N, 0.1), CausalBudget(N, 0.1)
    share, gone = shared.share(), shared.share()
    gone.close()
    for row in rows:
        assert np.array_equal(alone.keep(row), share.keep(row))


def test_a_late_stream_begins_whole_and_is_paid_for() -> None:
    shared = CausalBudget(N, 0.1)
    rows = scores("noise", 1200)
    first = shared.share()
    kept = [first.keep(row).sum() for row in rows[:600]]
    late = shared.share()
    for t, row in enumerate(rows[600:]):
        kept += [first.keep(row).sum(), late.keep(rows[t]).sum()]
        if t == 0:
            assert kept[-1] == N
    off = np.cumsum(kept) / (np.arange(1, len(kept) + 1) * N * 0.1) - 1
    assert np.abs(off[SETTLED:600]).max() <= TOLERANCE + 1e-6
    assert np.abs(off[600 + SETTLED :]).max() <= TOLERANCE + 1e-6
