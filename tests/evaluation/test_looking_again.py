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
)


def test_every_look_is_paid_for_and_the_last_answer_counts():
    assert LOOKS.looking((0.1, 0.4, 1.0), 0.8) == (pytest.approx((0.1 + 0.5 + 1.5 + 0.1) / 4), 0.75)
    assert LOOKS.looking((0.1, 1.0), 0.0) == (pytest.approx(0.1), 0.25)
    assert LOOKS.fixed() == [(0.1, 0.25), (0.4, 0.5), (1.0, 0.75)]


def test_the_threshold_is_the_best_one_that_can_be_afforded():
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.2, (0.4, 0.8)) == 0.4
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.9, (0.4, 0.8)) == 0.8
    assert chosen_threshold(LOOKS, (0.1, 1.0), 0.01, (0.4, 0.8)) == 0.4


def test_every_question_is_asked_at_every_budget():
    pytest.importorskip("llama_cpp")
    clips = [world.make_clip(5, i, 6) for i in range(2)]
    with Pipeline(Bundle.open("reference"), threads=1) as pipeline:
        looks = ask_at_every_budget(pipeline, pipeline.selector("score"), (0.1, 1.0), clips)
        assert looks.right.shape == looks.probability.shape == (sum(len(clip.questions) for clip in clips), 2)
        tokens = pipeline.encode(clips[0].frames()).tokens
        pipeline.watch(tokens, np.ones(tokens.shape[:2], bool))
        for row, question in enumerate(clips[0].questions):
            right = "".join(pipeline.ask(question.text, 8)).strip().lower() == question.answer
            assert looks.right[row, 1] == right
