import math
from types import SimpleNamespace

import numpy as np
import pytest

from score_edge.evaluation.intervals import over_clips, wilson


@pytest.mark.parametrize(("right", "asked"), [(0, 10), (5, 10), (98, 100), (1930, 2000)])
def test_wilson_interval_ends_where_the_share_is_just_1_96_deviations_away(right, asked):
    share = right / asked
    for end in wilson(right, asked):
        distance = 1.959964 * math.sqrt(max(0.0, end * (1 - end)) / asked)
        assert abs(share - end) == pytest.approx(distance, abs=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_interval_stays_within_nothing_and_everything():
    assert all(wilson(0, asked)[0] >= 0 and wilson(asked, asked)[1] <= 1 for asked in range(1, 500))


def of_clips(*rows):
    """Questions and values, by clip."""
    return [SimpleNamespace(clip=clip) for clip, row in enumerate(rows) for _ in row], [v for row in rows for v in row]


@pytest.mark.parametrize("clips", [2, 30, 225])
def test_where_every_answer_is_right_or_wrong_the_interval_is_wilsons_with_one_trial_per_clip(clips):
    for right in (0.0, 1.0):
        asked, values = of_clips(*[[right] * 5] * clips)
        assert over_clips(asked, values, 0.0) == pytest.approx(wilson(int(right) * clips, clips))


def test_where_no_clip_differs_as_many_may_as_wilson_allows():
    _, missed = wilson(0, 30)
    assert over_clips(*of_clips(*[[0.0, 0.0]] * 30), -1.0) == pytest.approx((-missed, missed))
    assert over_clips(*of_clips(*[[1.0, -1.0]] * 30), -1.0) == pytest.approx((-missed, missed))
    assert over_clips(*of_clips(*[[-1.0]] * 30), -1.0) == pytest.approx((-1.0, 2 * missed - 1))
    alike = [[1.0, 0.0, 1.0]] * 30
    assert over_clips(*of_clips(*alike), 0.0) == pytest.approx((2 / 3 * (1 - missed), 2 / 3 + missed / 3))


def test_where_clips_differ_it_is_that_of_their_mean():
    for clips, deviations in ((4, 3.18), (40, 1.959964)):
        low, high = over_clips(*of_clips(*[[0.0], [0.2], [0.0], [0.0]] * (clips // 4)), -1.0)
        wide = deviations * math.sqrt(clips * (3 * 0.05**2 + 0.15**2) / 4) / math.sqrt(clips * (clips - 1))
        assert (low, high) == pytest.approx((0.05 - wide, 0.05 + wide))


@pytest.mark.parametrize("clips", [2, 3, 5, 10, 12, 16, 29])
def test_of_few_clips_too_it_holds_in_95_cases_of_100(clips):
    rng = np.random.default_rng(clips)
    trials = [of_clips(*(rng.normal(center, 0.05, 4) for center in rng.normal(0, 0.1, clips))) for _ in range(1000)]
    held = sum(low <= 0 <= high for low, high in (over_clips(*trial, -1.0) for trial in trials))
    assert 930 <= held <= 975


def test_one_clip_tells_nothing_of_others():
    assert over_clips(*of_clips([1.0] * 9), 0.0) == (0.0, 1.0)
    assert over_clips(*of_clips([0.0] * 9), -1.0) == (-1.0, 1.0)
