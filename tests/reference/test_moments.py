"""What can be asked at a moment: true of the steps seen so far, and about what it says it is about."""

import numpy as np
import pytest

from score_edge.reference import world
from score_edge.reference.moments import ABOUT, TimedQuestion, questions_after_events

LAST = 4
CLIPS = [world.make_clip(world.VALIDATION_SEED, index, 32) for index in range(40)]
ASKED = [(clip, question) for clip in CLIPS for question in questions_after_events(clip, LAST)]


def acting(clip: world.Clip, question: TimedQuestion) -> list[np.ndarray]:
    """Steps so far in which each event acts whose colour or shape the question or its answer names."""
    words = {*question.text.replace("?", "").replace(",", "").split(), question.answer}
    found = [
        np.flatnonzero(thing.acting[: question.step])
        for thing in clip.things
        if (thing.role == "flash" if question.kind == "flash" else thing.role == "mover" and question.kind != "count")
        and (thing.color in words or thing.shape in words)
    ]
    return [steps for steps in found if len(steps)]


def test_at_the_end_it_is_what_the_world_itself_asks() -> None:
    told = 0
    for clip in CLIPS:
        answers = {question.text: question.answer for question in clip.questions}
        for question in questions_after_events(clip, LAST):
            if question.step == 32 and question.text in answers:
                assert question.answer == answers[question.text]
                told += 1
    assert told > 100


def test_all_that_is_asked_is_in_the_words_of_the_world() -> None:
    words = {word for text in world.vocabulary() for word in text.replace("?", "").replace(",", "").split()}
    assert {question.about for _, question in ASKED} == set(ABOUT)
    for _, question in ASKED:
        asked = {*question.text.replace("?", "").replace(",", "").split(), question.answer}
        assert asked <= words
        assert question.kind in world.QUESTION_TYPES


def test_an_event_of_the_last_steps_lies_within_them_and_one_of_the_past_before_them() -> None:
    for clip, question in ASKED:
        if question.kind in ("order", "count", "still", "drift"):
            continue
        border = question.step - LAST
        if question.about == "last steps":
            assert any(steps[0] >= border for steps in acting(clip, question))
        else:
            assert any(steps[-1] < border for steps in acting(clip, question))


def test_what_came_first_and_how_many_so_far() -> None:
    for clip, question in ASKED:
        events = [thing for thing in clip.things if thing.role in ("mover", "flash")]
        begun = [(int(thing.acting.argmax()), thing) for thing in events if thing.acting[: question.step].any()]
        begun.sort(key=lambda found: found[0])
        if question.kind == "count":
            assert question.answer == world.NUMBERS[sum(thing.role == "mover" for _, thing in begun)]
            assert any(thing.role == "mover" and start < question.step - LAST for start, thing in begun)
        if question.kind == "order":
            first = next(thing for _, thing in begun if thing.name in question.text)
            assert question.answer == first.color
    assert {question.kind for _, question in ASKED} == set(world.QUESTION_TYPES)


@pytest.mark.parametrize("last", [2, 8])
def test_nothing_is_asked_while_something_is_on_its_way(last: int) -> None:
    for clip in CLIPS:
        for question in questions_after_events(clip, last, first=6):
            assert 6 <= question.step <= 32
            if question.step < 32:
                for thing in clip.things:
                    if thing.role in ("mover", "flash"):
                        assert not (thing.acting[question.step - 1] and thing.acting[question.step])
