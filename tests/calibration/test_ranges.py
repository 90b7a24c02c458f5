"""Ranges against numpy over all values at once."""

import numpy as np
import pytest

from score_edge.calibration.ranges import collect_ranges
from score_edge.errors import ScoreEdgeError

pytest.importorskip("onnx")


class Fake:
    """A graph whose one activation has a long tail."""

    def run(self, patches):
        rng = np.random.default_rng(int(patches[0, 0]))
        x = rng.standard_normal(20_000)
        x[:20] *= 40
        return {"x": x.astype(np.float32)}


STEPS = [{"patches": np.full((1, 1), seed, np.float32)} for seed in range(4)]
ALL = np.concatenate([Fake().run(**step)["x"] for step in STEPS])


def test_minmax_is_the_extremes() -> None:
    found = collect_ranges(Fake(), ["x"], STEPS)["x"]
    assert (found.low, found.high, found.values) == (ALL.min(), ALL.max(), 20_000)


def test_percentile_cuts_the_tail() -> None:
    found = collect_ranges(Fake(), ["x"], STEPS, "percentile")["x"]
    exact = np.quantile(np.abs(ALL).astype(np.float64), 0.9999)
    assert found.high == pytest.approx(exact, rel=0.02)
    assert found.low == -found.high


def test_entropy_is_not_minmax_in_disguise() -> None:
    """With a tail this rare, levels are better spent on the middle."""
    found = collect_ranges(Fake(), ["x"], STEPS, "entropy")["x"]
    assert np.abs(ALL).max() > 100
    assert 3 < found.high < 60


def test_a_value_that_is_not_finite_is_named() -> None:
    class Broken:
        def run(self, patches):
            return {"x": np.array([1, np.nan], np.float32)}

    with pytest.raises(ScoreEdgeError, match="not finite: x on calibration step 0"):
        collect_ranges(Broken(), ["x"], STEPS)


def test_every_step_counts() -> None:
    class Falling:
        def run(self, patches):
            return {"x": patches * np.float32([-1, 1])}

    steps = [{"patches": np.full((1, 2), size, np.float32)} for size in (3, 5, 2)]
    found = collect_ranges(Falling(), ["x"], steps)["x"]
    assert (found.low, found.high) == (-5, 5)
