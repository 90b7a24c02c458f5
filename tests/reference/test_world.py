from itertools import pairwise

import numpy as np
import pytest

from score_edge.reference import world

CLIPS = [world.make_clip(world.TEST_SEED, index, 8) for index in range(60)]


def test_a_clip_is_made_from_seed_index_and_steps_alone():
    again = world.make_clip(world.TEST_SEED, 7, 8)
    assert np.array_equal(again.images, CLIPS[7].images)
    assert [(q.text, q.answer) for q in again.questions] == [(q.text, q.answer) for q in CLIPS[7].questions]
    assert not np.array_equal(again.images, world.make_clip(world.TRAIN_SEED, 7, 8).images)
    assert not np.array_equal(again.images, world.make_clip(world.TEST_SEED, 8, 8).images)


@pytest.mark.parametrize("steps", [3, 8, 64])
def test_shapes(steps):
    clip = world.make_clip(5, 0, steps)
    tokens = (world.SIZE // world.CELL) ** 2
    assert clip.images.shape == (steps * world.FRAMES_PER_STEP, world.SIZE, world.SIZE, 3)
    assert clip.images.dtype == np.uint8
    assert all(q.evidence.shape == (steps, tokens) and q.evidence.any() for q in clip.questions)
    assert [frame.index for frame in clip.frames()] == list(range(len(clip.images)))


def test_every_question_type_is_asked_and_no_answer_dominates():
    for kind in world.QUESTION_TYPES:
        answers = [q.answer for clip in CLIPS for q in clip.questions if q.kind == kind]
        assert len(answers) > 20
        assert max(answers.count(answer) for answer in set(answers)) < 0.6 * len(answers)


def test_things_never_touch_and_stay_in_the_picture():
    for clip in CLIPS:
        for i, thing in enumerate(clip.things):
            assert thing.path.min() >= thing.radius and thing.path.max() <= world.SIZE - thing.radius
            for other in clip.things[:i]:
                apart = np.abs(thing.path - other.path).max(axis=1) - thing.radius - other.radius
                assert apart.min() > 0


def test_roles_move_as_they_should():
    for thing in (thing for clip in CLIPS for thing in clip.things):
        per_step = np.abs(np.diff(thing.path[:: world.FRAMES_PER_STEP], axis=0)).max(axis=1)
        if thing.role == "drifter":
            assert 0 < per_step.max() < 1  # less than a pixel per step
        elif thing.role == "mover":
            assert per_step.max() > 2
            still = np.repeat(~thing.acting, world.FRAMES_PER_STEP)
            assert np.abs(np.diff(thing.path, axis=0))[still[1:] & still[:-1]].max(initial=0) == 0
        else:
            assert per_step.max() == 0
        assert thing.visible.all() == (thing.role != "flash")


def test_answers_follow_from_the_things():
    """A second reading of the rules, from the names in the question text alone."""
    for clip in CLIPS:
        things = {thing.name: thing for thing in clip.things}
        movers = [thing for thing in clip.things if thing.role == "mover"]
        for question in clip.questions:
            words = question.text.rstrip("?").replace(",", "").split()
            named = [things[f"{a} {b}"] for a, b in pairwise(words) if f"{a} {b}" in things]
            match question.kind:
                case "color":
                    assert [m.color for m in movers if m.shape in words] == [question.answer]
                case "shape":
                    assert [m.shape for m in movers if m.color in words] == [question.answer]
                case "direction":
                    first, last = named[0].path[0], named[0].path[-1]
                    assert np.dot(last - first, world.DIRECTIONS[question.answer]) > 10
                case "flash":
                    (thing,) = (thing for thing in clip.things if not thing.visible.all())
                    assert question.answer in (thing.color, thing.shape)
                case "order":
                    earliest = min(named, key=lambda thing: np.flatnonzero(thing.acting)[0])
                    assert earliest.color == question.answer and len({thing.color for thing in named}) == 2
                case "drift":
                    assert [t.color for t in clip.things if t.role == "drifter"] == [question.answer]
                case "count":
                    assert world.NUMBERS[len(movers)] == question.answer
                case "still":
                    fixed = [t for t in clip.things if t.role != "mover" and t.color in words]
                    assert [t.shape for t in fixed] == [question.answer]


def test_evidence_is_where_the_thing_is():
    """Erasing the evidence tokens of a flash must erase every pixel that tells the flash from the steps before it."""
    for clip in CLIPS[:20]:
        for thing in (thing for thing in clip.things if thing.role == "flash"):
            step = int(np.flatnonzero(thing.acting)[0])
            x, y = thing.path[step * world.FRAMES_PER_STEP]
            centre = int(y // world.CELL) * (world.SIZE // world.CELL) + int(x // world.CELL)
            evidence = thing.evidence()
            assert evidence[step, centre]
            assert not evidence[~thing.acting].any()
            assert evidence[step].sum() <= 4


def test_distractions_change_pixels_that_no_evidence_covers():
    changed, covered = 0.0, 0.0
    for clip in CLIPS:
        evidence = np.logical_or.reduce([thing.evidence() for thing in clip.things if thing.role != "still"])
        steps = clip.images[:: world.FRAMES_PER_STEP].astype(np.float32)
        cells = steps.reshape(len(steps), 6, world.CELL, 6, world.CELL, 3)
        moved = np.abs(np.diff(cells, axis=0)).mean(axis=(2, 4, 5)).reshape(len(steps) - 1, -1) > 6
        changed += moved.sum()
        covered += (moved & evidence[1:]).sum()
    assert covered < 0.5 * changed
