import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.evaluation.looking_again import Looks, ask_at_every_budget, chosen_threshold
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline

LOOKS = Looks(
    (0.1, 0.4, 1.0),
    np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], bool),
    np.array([[0.9, 0.9, 0.9], [0.5, 0.9, 0.9], [0.5, 0.5, 0.5], [0.95, 0.5, 0.5]]),
    np.array([0, 0, 1, 1]),
)


def test_every_look_is_paid_for_and_the_last_answer_counts():
    assert LOOKS.looking((0.1, 0.4, 1.0), 0.8) == (pytest.approx((0.1 + 0.5 + 1.5 + 0.1) / 4), 0.75)
    assert LOOKS.looking((0.1, 1.0), 0.0) == (pytest.approx(0.1), 0.25)
    assert LOOKS.fixed() == [(0.1, 0.25), (0.4, 0.5), (1.0, 0.75)]


def test_the_threshold_is_the_best_one_that_can_be_afforded():
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.2, (0.4, 0.8)) == 0.4
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.9, (0.4, 0.8)) == 0.8
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.01, (0.4, 0.8)) == 0.4


def test_beside_a_fixed_budget_of_as_many_tokens_on_the_line_between_two():
    gained, _ = LOOKS.above_fixed((0.1, 1.0), 0.6)
    paid = (0.1 + 1.1 + 1.1 + 0.1) / 4
    share = np.log(paid / 0.4) / np.log(1 / 0.4)
    assert gained == pytest.approx(0.75 - (0.5 + 0.25 * share))


def test_a_chain_of_one_look_is_that_fixed_budget_with_no_doubt():
    assert LOOKS.above_fixed((0.4,), 0.6)[0] == pytest.approx(0)


def test_its_interval_holds_what_clips_drawn_anew_give():
    """Beside a bootstrap that draws clips, and finds the mean of what is paid and the line anew each time."""
    dice = np.random.default_rng(0)
    budgets, clips, asked = (0.05, 0.2, 1.0), 200, 6
    hard = np.repeat(dice.random((clips, 1)), asked, axis=0) * 0.5 + dice.random((clips * asked, 1)) * 0.5
    right = dice.random((clips * asked, 3)) > hard * [0.9, 0.5, 0.3]
    looks = Looks(budgets, right, 1 - hard * [1, 1, 1], np.repeat(np.arange(clips), asked))
    gained, (low, high) = looks.above_fixed(budgets, 0.55)
    drawn = []
    for _ in range(1000):
        rows = (dice.integers(0, clips, clips)[:, None] * asked + np.arange(asked)).ravel()
        again = Looks(budgets, right[rows], looks.probability[rows], looks.clips[rows])
        drawn.append(again.above_fixed(budgets, 0.55)[0])
    assert low < gained < high
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.1 * (high - low))


def test_every_question_is_asked_at_every_budget():
    pytest.importorskip("llama_cpp")
    clips = [world.make_clip(5, i, 6) for i in range(2)]
    with Pipeline(Bundle.open("reference"), threads=1) as pipeline:
        looks = ask_at_every_budget(pipeline, pipeline.selector("score"), (0.1, 1.0), clips)
        assert looks.right.shape == looks.probability.shape == (sum(len(clip.questions) for clip in clips), 2)
        assert looks.clips.tolist() == [0] * len(clips[0].questions) + [1] * len(clips[1].questions)
        tokens = pipeline.encode(clips[0].frames()).tokens
        pipeline.watch(tokens, np.ones(tokens.shape[:2], bool))
        for row, question in enumerate(clips[0].questions):
            right = "".join(pipeline.ask(question.text, 8)).strip().lower() == question.answer
            assert looks.right[row, 1] == right
