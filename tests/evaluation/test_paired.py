"""Paired differences against a bootstrap over clips, and the tuning that makes rivals fair."""

import dataclasses

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.evaluation import tuning
from score_edge.evaluation.accuracy import EvaluationPlan, QuestionResult
from score_edge.evaluation.paired import paired_differences
from score_edge.evaluation.tuning import candidates, tune
from score_edge.reference import world
from score_edge.selection.dithered import SelectorSpec


def results(right: dict[str, np.ndarray]) -> list[QuestionResult]:
    """(clips, questions) bool per selector."""
    return [
        QuestionResult(name, 0.1, 32, clip, "color", 3.2, bool(value), 0.5)
        for name, table in right.items()
        for clip, row in enumerate(table)
        for value in row
    ]


def test_the_interval_is_that_of_clips_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    # Questions about one clip are right together: fewer independent ones than there are.
    luck = rng.standard_normal((200, 1))
    ours = rng.standard_normal((200, 6)) + luck > -1.2
    theirs = rng.standard_normal((200, 6)) - luck > -0.8
    (found,) = paired_differences(results({"score": theirs, "evs:dither=1": ours}))
    assert (found.selector, found.against, found.asked) == ("evs:dither=1", "score", 1200)
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    difference = ours.astype(float) - theirs
    drawn = [difference[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)
    assert found.decided == (low > 0 or high < 0)


def test_one_clip_decides_nothing() -> None:
    (found,) = paired_differences(results({"score": np.zeros((1, 6), bool), "evs": np.ones((1, 6), bool)}))
    assert (found.difference, found.low, found.high, found.decided) == (1, -1, 1, False)


def test_each_retention_is_compared_with_its_own_base() -> None:
    same = np.ones((3, 2), bool)
    rows = results({"score:dither=1": same, "evs": ~same})
    rows += [QuestionResult("all", 1.0, 32, 0, "color", 32, True, 1.0)]
    (found,) = paired_differences(rows, base="score")
    assert found.difference == found.low == -1 and -1 < found.high < 1
    assert paired_differences(rows, base="last-kept") == []


def test_the_same_clip_under_two_regimes_counts_as_one() -> None:
    ours, theirs = np.array([[1, 1], [0, 1], [1, 1]], bool), np.zeros((3, 2), bool)
    alone = results({"score": theirs, "evs": ours})
    both = [*alone, *(dataclasses.replace(row, world="rain") for row in alone)]
    found = {row.world: row for row in paired_differences(both)}
    assert list(found) == ["plain", "rain", "mean"]
    assert found["mean"].asked == 12 and found["mean"].low == pytest.approx(found["plain"].low)


def test_a_plan_runs_at_each_retention_what_was_tuned_for_it() -> None:
    plan = EvaluationPlan(
        ("score", "all", "evs"), (1.0, 0.1, 0.05), tuned={0.05: ("score:dither=1", "evs:first=scored")}
    )
    assert plan.variants() == [
        ("all", 1.0),
        ("score", 0.1),
        ("score:dither=1", 0.05),
        ("evs", 0.1),
        ("evs:first=scored", 0.05),
    ]


def test_a_tuned_selector_is_known_by_the_name_it_was_asked_for_by() -> None:
    plan = EvaluationPlan(
        ("all", "evs", "evs:dither=1"), (0.1, 0.05), tuned={0.05: ("evs:dither=0", "evs:dither=1"), 0.1: ("evs",) * 2}
    )
    assert plan.asked("evs:dither=0", 0.05) == ["evs"] and plan.asked("evs:dither=1", 0.05) == ["evs:dither=1"]
    assert plan.asked("evs", 0.1) == ["evs", "evs:dither=1"]  # both were tuned to the same
    assert plan.asked("all", 1.0) == ["all"]
    assert EvaluationPlan(("evs", "evs"), (0.1,)).asked("evs", 0.1) == ["evs"]


def test_everything_but_what_cannot_gain_is_tried_in_eight_ways() -> None:
    assert len(set(candidates("last-kept"))) == 8 and "last-kept:dither=0:first=whole" in candidates("last-kept")
    assert candidates("newest") == ("newest",)


def test_what_a_selector_was_tuned_on_is_not_what_it_is_measured_on() -> None:
    with pytest.raises(ScoreEdgeError, match="seed 2 are those that selectors are tuned on"):
        tune("reference", EvaluationPlan(("evs",), (0.1,), seed=world.VALIDATION_SEED), clips=1)


@pytest.mark.parametrize("text", ["evs", "evs:dither=0.5", "score:dither=0:first=whole", "surge:first=scored"])
def test_a_selector_is_written_as_it_is_read(text: str) -> None:
    assert str(SelectorSpec.read(text)) == text


@pytest.mark.parametrize("text", ["evs:dither", "evs:dither=-1", "evs:first=half", "evs:dihter=1", "evs:"])
def test_options_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ScoreEdgeError, match="is not an option"):
        SelectorSpec.read(text)


def test_selectors_are_tuned_on_clips_that_nothing_is_evaluated_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvaluationPlan] = []

    def ask(bundle: str, plan: EvaluationPlan, on_clip: object) -> list[QuestionResult]:
        asked.append(plan)
        return [
            QuestionResult(name, 0.1, 8, 0, "count", 1.0, name == "evs:dither=1:first=scored", 1.0)
            for name in candidates("evs")
        ]

    monkeypatch.setattr(tuning, "ask_everything", ask)
    plan = tune("reference", EvaluationPlan(("evs",), (0.1, 1.0), (8, 32)), clips=7)
    assert [(each.seed, each.clips, each.steps) for each in asked] == [(world.VALIDATION_SEED, 7, (8,))]
    assert plan.tuned == {0.1: ("evs:dither=1:first=scored",)} and plan.seed == world.TEST_SEED
