"""Dithering and the first-step rule for any selector: for a clip and for a stream."""

import numpy as np
import pytest

from score_edge.selection.budget import clip_top_k
from score_edge.selection.causal_budget import CausalBudget, select_causally
from score_edge.selection.last_kept import LastKept
from score_edge.selection.registry import get_selector, step_scorer

STEPS, N = 40, 36
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((1, N, 8), np.float32) + 0.05 * RNG.standard_normal((STEPS, N, 8), np.float32)


@pytest.mark.parametrize("name", ["evs", "last-kept", "surge", "dtd"])
def test_without_the_first_step_the_budget_goes_to_the_others(name: str) -> None:
    count = 3 * N
    whole, scored = (
        clip_top_k(get_selector(f"{name}:first={rule}").score(TOKENS, count), count) for rule in ("whole", "scored")
    )
    assert whole[0].all() and not scored[0].any()
    assert whole.sum() == scored.sum() == count


def test_without_the_first_step_a_selector_that_keeps_it_is_asked_for_as_many_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    scored = LastKept.score
    monkeypatch.setattr(LastKept, "score", lambda self, *given: asked.append(given[1]) or scored(self, *given))
    tokens = np.random.default_rng(0).standard_normal((5, 8, 3)).astype(np.float32)
    for name, count in (("last-kept:first=scored", 10), ("last-kept:first=scored", 36), ("last-kept:first=whole", 10)):
        get_selector(name).score(tokens, count)
    assert asked == [18, 40, 10]


def test_dithering_keeps_others_in_every_step() -> None:
    # Every place turns back and forth by an amount of its own, hardly different from its neighbours'.
    tokens = np.ones((STEPS, N, 2), np.float32)
    tokens[:, :, 1] = (-1.0) ** np.arange(STEPS)[:, None] * (0.1 + 1e-3 * np.arange(N))
    plain, dithered = (
        clip_top_k(get_selector(name).score(tokens, 2 * STEPS), 2 * STEPS)[1:].sum(axis=0)
        for name in ("evs:first=scored", "evs:first=scored:dither=1")
    )
    assert np.count_nonzero(plain) <= 4  # the same few in every step
    assert np.count_nonzero(dithered) > 2 * np.count_nonzero(plain)
    assert dithered[N // 2 :].sum() > dithered[: N // 2].sum()  # what changes more is still kept more


@pytest.mark.parametrize("name", ["evs:dither=1", "last-kept:dither=0.5:first=scored", "surge:first=scored"])
def test_a_stream_keeps_its_share(name: str) -> None:
    tokens = np.tile(TOKENS, (8, 1, 1)) + 0.02 * RNG.standard_normal((8 * STEPS, N, 8), np.float32)
    selector = get_selector(name)
    budget = CausalBudget(N, 0.1, selector.first)  # type: ignore[attr-defined]
    keep = select_causally(tokens, step_scorer(selector), budget)
    assert keep.mean() == pytest.approx(0.1, rel=0.02)
    assert keep[0].all() == ("first=scored" not in name)


def test_newest_keeps_the_last_steps_and_thins_the_oldest_of_them() -> None:
    keep = clip_top_k(get_selector("newest").score(TOKENS, 2 * N + 9), 2 * N + 9)
    assert keep[-2:].all() and keep[-3].sum() == 9 and not keep[:-3].any()
    assert np.diff(np.flatnonzero(keep[-3])).max() == 4
