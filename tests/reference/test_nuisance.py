import hashlib

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.reference.labels import ACTS, label
from score_edge.reference.nuisance import PAN, REGIMES, read_regimes

PLAIN = world.make_clip(world.TEST_SEED, 5, 16)


def change(images: np.ndarray) -> float:
    """Mean absolute difference from frame to frame."""
    return float(np.abs(np.diff(images.astype(np.float32), axis=0)).mean())


def test_a_plain_clip_is_what_it_was_before_there_were_regimes():
    digest = hashlib.sha256(PLAIN.images.tobytes()).hexdigest()
    assert digest == "24773c2469df4a869186f660199554c9eff7feb73fb29677785f60117644d372"


@pytest.mark.parametrize("regime", REGIMES[1:])
def test_a_regime_asks_what_the_plain_clip_asks_and_changes_more(regime):
    clip = world.make_clip(world.TEST_SEED, 5, 16, regime)
    assert [(q.text, q.answer) for q in clip.questions] == [(q.text, q.answer) for q in PLAIN.questions]
    assert [thing.name for thing in clip.things] == [thing.name for thing in PLAIN.things]
    assert change(clip.images) > 1.05 * change(PLAIN.images)
    assert np.array_equal(clip.images, world.make_clip(world.TEST_SEED, 5, 16, regime).images)


def test_a_panning_camera_takes_things_and_their_evidence_along():
    clip = world.make_clip(world.TEST_SEED, 5, 16, "pan")
    assert 0 < np.abs(clip.camera).max() <= PAN
    for thing, still in zip(clip.things, PLAIN.things, strict=True):
        assert np.allclose(thing.path - clip.camera, still.path)
        frame = int(np.flatnonzero(thing.visible)[0])
        x, y = np.rint(thing.path[frame]).astype(int)
        same = np.abs(clip.images[frame, y, x].astype(int) - PLAIN.images[frame].reshape(-1, 3)).sum(axis=1)
        assert thing.shape == "ring" or same.min() < 40  # its colour, where it now is
    assert PLAIN.camera.any() == False  # noqa: E712


def test_labels_say_how_far_things_came_and_not_how_far_the_camera_did():
    moved, rested = (label(clip) for clip in (world.make_clip(world.TEST_SEED, 5, 16, "pan"), PLAIN))
    resting = (moved.acts == 0) & ~np.isnan(moved.travelled[..., 0])
    assert np.abs(moved.travelled[resting]).max() < 1.0
    assert set(np.unique(rested.acts)) <= set(range(len(ACTS)))
    assert np.nanmax(np.abs(rested.offsets)) < 7


def test_regimes_are_read_from_a_list_or_all_taken():
    assert read_regimes("pan,plain") == ("pan", "plain") and read_regimes("all") == REGIMES
    with pytest.raises(ScoreEdgeError, match="no world 'rian'"):
        read_regimes("plain,rian")
