import dataclasses

import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation import accuracy
from score_edge.evaluation.accuracy import EvaluationPlan, evaluate
from score_edge.reference import world


def test_unpruned_is_measured_once_and_first():
    plan = EvaluationPlan(("evs", "all", "random"), (1.0, 0.5, 0.1))
    assert plan.variants() == [("all", 1.0), ("evs", 0.5), ("evs", 0.1), ("random", 0.5), ("random", 0.1)]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (EvaluationPlan(("evs",), (0.0,)), "retention 0.0"),
        (EvaluationPlan(("evs",), (0.1,), clips=0), "at least one clip"),
        (EvaluationPlan(("nothing",), (0.1,)), "nothing"),
        (EvaluationPlan(("evs",), (0.1,), worlds=("plain", "rian")), "no world 'rian'"),
        (EvaluationPlan(("vidcom2",), (0.1,), budget="causal"), "needs a whole clip"),
        (EvaluationPlan(("evs",), (0.1,), steps=(8, 32, 8), clips=1), "8,32,8 names the same clips twice"),
        (EvaluationPlan(("evs",), (0.1,), worlds=("rain", "rain"), clips=1), "rain,rain names the same clips twice"),
    ],
)
def test_an_impossible_plan_is_refused_before_any_work(plan, text):
    with pytest.raises(ScoreEdgeError, match=text):
        evaluate("reference", plan)


def test_score_query_needs_no_other_policy(tmp_path):
    reference = Bundle.open("reference")
    selector = dataclasses.replace(reference.manifest.selector, name="evs", policy=None)
    manifest = dataclasses.replace(reference.manifest, selector=selector)
    files = {name: path for name, path in reference.paths.items() if name != "policy.onnx"}
    folder = write_bundle(tmp_path / "bundle", manifest, files).folder
    rows = evaluate(folder, EvaluationPlan(("score-query:dither=1",), (0.25,), (4,), clips=1))
    assert {row.selector for row in rows} == {"all", "score-query:dither=1"}
    with pytest.raises(ScoreEdgeError, match="'diter=1' is not an option"):
        evaluate(folder, EvaluationPlan(("score-query:diter=1",), (0.25,), (4,), clips=1))


def test_two_runs_agree_and_the_rows_add_up():
    plan = EvaluationPlan(("random",), (0.25,), (4,), clips=4)
    done: list[int] = []
    rows = evaluate("reference", plan, on_clip=lambda: done.append(1))
    assert len(done) == 4
    assert rows == evaluate("reference", plan)
    questions = [q for index in range(4) for q in world.make_clip(plan.seed, index, 4).questions]
    for variant in plan.variants():
        mine = [row for row in rows if (row.selector, row.retention) == variant]
        overall, *kinds = mine
        assert overall.kind == "overall" and overall.asked == len(questions) == sum(row.asked for row in kinds)
        right = sum(row.accuracy * row.asked for row in kinds)
        assert overall.accuracy == pytest.approx(right / overall.asked)
    assert rows[0].recall == 1.0


def test_regimes_are_asked_the_same_and_followed_by_their_mean():
    plan = EvaluationPlan(("random",), (0.25,), (4,), clips=3, worlds=("plain", "leaves"))
    rows = [row for row in evaluate("reference", plan) if row.kind == "overall" and row.selector == "all"]
    plain, leaves, mean = rows
    assert [row.world for row in rows] == ["plain", "leaves", "mean"]
    assert plain.asked == leaves.asked == mean.asked / 2
    assert mean.accuracy == pytest.approx((plain.accuracy + leaves.accuracy) / 2)
    assert mean.low < mean.accuracy <= mean.high


def test_causal_decisions_are_measured_with_what_they_kept():
    rows = evaluate("reference", EvaluationPlan(("last-kept",), (0.25,), (8,), clips=2, budget="causal"))
    assert rows[0].selector == "all" and rows[0].steps_kept == 8
    causal = [row for row in rows if row.selector == "last-kept"]
    assert causal and 1 <= causal[0].steps_kept < 4


def test_the_newest_steps_are_known_without_deciding_before():
    rows = evaluate("reference", EvaluationPlan(("newest",), (0.25,), (8,), clips=2, budget="causal"))
    assert next(row for row in rows if row.selector == "newest").steps_kept == 2


def test_the_newest_steps_are_laid_out_as_a_stream_holds_them(monkeypatch):
    plan = EvaluationPlan(("newest",), (0.125,), (32,), clips=1, budget="causal")
    accuracy._open_worker("reference", plan)
    pipeline, shown = accuracy._worker[0], []
    watch = pipeline.watch
    monkeypatch.setattr(pipeline, "watch", lambda *clip: shown.append(clip[1].shape[0]) or watch(*clip))
    accuracy._judge(0, 32, "plain")
    assert shown == [32, 4]  # unpruned, and no hole of 28 steps behind the prompt
