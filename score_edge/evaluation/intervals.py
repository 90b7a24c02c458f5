"""How sure a share of right answers is, and a difference of two."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

_Z = 1.959964  # of 95 %
# Student's t at 95 % up to so many clips: of few the spread between them is known badly.
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 12: 2.26, 16: 2.18, 30: 2.12}


class OfClip(Protocol):
    """What was found of a question."""

    @property
    def clip(self) -> int:
        """Number of the clip it is about."""
        ...


def wilson(right: int, asked: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927)."""
    if asked == 0:
        return 0.0, 1.0
    share = right / asked
    centre = (share + _Z * _Z / (2 * asked)) / (1 + _Z * _Z / asked)
    half = _Z * math.sqrt(share * (1 - share) / asked + _Z * _Z / (4 * asked * asked)) / (1 + _Z * _Z / asked)
    return max(0.0, centre - half), min(1.0, centre + half)


def over_clips(asked: Sequence[OfClip], values: Sequence[float], least: float) -> tuple[float, float]:
    """95 % interval of the mean of a value per question, clips drawn anew.

    Questions about one clip are right and wrong together, also under other regimes: the interval is that of a ratio of
    sums over clips (linearised), of few clips by Student's t. Where all clips are alike, as where every answer is
    right, that would have no width. Then as many clips of any other value may have been missed as Wilson's interval
    allows, with each clip as one trial. One clip tells nothing of others.

    Args:
        asked: the questions.
        values: of each, from `least` to 1.
        least: 0 for right answers, -1 for differences.
    """
    clips, index = np.unique([result.clip for result in asked], return_inverse=True)
    if len(clips) < 2:
        return least, 1.0
    sums, counts = np.bincount(index, values), np.bincount(index)
    mean = float(sums.sum() / counts.sum())
    spread = sums - mean * counts
    if np.allclose(spread, 0):
        _, missed = wilson(0, len(clips))
        return mean + missed * (least - mean), mean + missed * (1 - mean)
    error = math.sqrt(float((spread**2).sum()) * len(clips) / (len(clips) - 1)) / float(counts.sum())
    error *= next((t for most, t in _STUDENT.items() if len(clips) <= most), _Z)
    return max(least, mean - error), min(1.0, mean + error)
