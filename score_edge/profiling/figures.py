"""Repeated measurements as figures: median, spread, and whether two of them differ."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FLOOR = 0.02
"""Below 2 % two runs never count as different: start-up, memory layout and clocks alone do as much."""
_MEDIAN = 1.2533  # the standard error of a median over that of a mean, for normal noise
# Student's t at 95 %, by number of samples: of three runs the spread is known badly.
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
_MANY = 2.1


@dataclass(frozen=True, slots=True)
class Figure:
    """Measurements of one thing, in seconds unless said otherwise.

    Attributes:
        n: how many.
        std: standard deviation; None of a single one.
    """

    n: int
    median: float
    p90: float
    p99: float
    std: float | None

    @staticmethod
    def of(samples: Sequence[float]) -> "Figure":
        """Of at least one measurement; percentiles are interpolated, so with few of them they lie near the largest."""
        std = statistics.stdev(samples) if len(samples) > 1 else None
        return Figure(
            len(samples), statistics.median(samples), percentile(samples, 0.9), percentile(samples, 0.99), std
        )

    @property
    def noise(self) -> float | None:
        """Relative uncertainty of the median, about 95 %; None of a single measurement or of nothing."""
        if self.std is None or self.median <= 0:
            return None
        return _STUDENT.get(self.n, _MANY) * _MEDIAN * self.std / (math.sqrt(self.n) * self.median)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer the new measurement takes.

    Attributes:
        value: new over old.
        noise: uncertainty of value, absolute; None where one side was measured once.
        differs: False inside the noise, None where nobody can tell.
    """

    value: float
    noise: float | None
    differs: bool | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.differs is None:
            return "measured once: nobody can tell"
        if not self.differs:
            return "no difference"
        return "slower" if self.value > 1 else "faster"


def compare(new: Figure, old: Figure) -> Ratio | None:
    """Two medians; None where the old one is zero.

    Example:
        >>> compare(Figure(5, 1.01, 1.1, 1.1, 0.1), Figure(5, 1.0, 1.1, 1.1, 0.1)).verdict
        'no difference'
    """
    if old.median <= 0:
        return None
    value = new.median / old.median
    if new.noise is None or old.noise is None:
        return Ratio(value, None, None)
    noise = max(FLOOR, math.hypot(new.noise, old.noise)) * value
    return Ratio(value, noise, abs(value - 1) > noise)


def percentile(samples: Sequence[float], share: float) -> float:
    """Linearly interpolated between the order statistics."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
