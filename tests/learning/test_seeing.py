import numpy as np
import pytest

torch = pytest.importorskip("torch")

from score_edge.learning.seeing import SIZES, TYPICAL_MOTION, seeing_losses  # noqa: E402


def test_the_losses_of_seeing_are_weighted_means_over_tokens():
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 3, (4, 9, 2))
    looks[..., 1] *= looks[..., 0] > 0
    offsets = rng.standard_normal((4, 9, SIZES[2])).astype(np.float32)
    offsets[:2, :, -2:] = offsets[:2, :, :2]  # half of it rests
    told = [rng.standard_normal((4, 9, size)).astype(np.float32) for size in SIZES]
    found = seeing_losses(
        [torch.from_numpy(each) for each in told],
        torch.from_numpy(looks),
        torch.from_numpy(offsets),
        background=0.1,
        resting=0.4,
    )
    shown = looks[..., 0] > 0
    named = 0.0
    for logits, truth in zip(told, (looks[..., 0], looks[..., 1]), strict=False):
        odds = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, truth[..., None], -1)[..., 0]
        named += np.average(odds, weights=np.where(shown, 1, 0.1))
    moved = (offsets[..., -2:] - offsets[..., :2])[shown] / TYPICAL_MOTION
    missed = ((told[3][shown] - moved) ** 2).sum(-1)
    weights = np.where(np.abs(moved).sum(-1) > 0.5, 1, 0.4)
    assert found[0].item() == pytest.approx(named, rel=1e-5)
    assert found[1].item() == pytest.approx(np.abs(told[2] - offsets)[shown].mean(), rel=1e-5)
    assert found[2].item() == pytest.approx(np.average(missed, weights=weights), rel=1e-5)
