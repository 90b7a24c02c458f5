"""A thread that reads the meters a few times a second, and the energy between two moments out of its notes."""

import bisect
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from score_edge.profiling.meters import Meter, Reading

INTERVAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """What the sensors said over a stretch of time; None means that no sensor tells it, never zero.

    Attributes:
        joules: energy.
        watts: mean power.
        meter: which sensor that is and what it covers, for example "INA3221 (whole board)".
        rails: mean watts by rail.
        load: mean percent of the GPU.
        celsius: the hottest moment.
        device_bytes: the most memory in use on a GPU of its own.
    """

    joules: float | None = None
    watts: float | None = None
    meter: str | None = None
    rails: dict[str, float] = field(default_factory=dict)
    load: float | None = None
    celsius: float | None = None
    device_bytes: int | None = None


class Telemetry:
    """Reads meters in the background between `with` and its end.

    Args:
        meters: opened by `open_meters`; closed at the end.
        interval_s: between readings.

    Example:
        >>> with Telemetry(open_meters()) as telemetry:  # doctest: +SKIP
        ...     began = time.perf_counter()
        ...     ...
        ...     joules = telemetry.usage(began, time.perf_counter()).joules
    """

    def __init__(self, meters: Sequence[Meter], interval_s: float = INTERVAL_S) -> None:
        self.meters = list(meters)
        self._interval = interval_s
        self._times: list[float] = []
        self._readings: list[list[Reading]] = []
        self._sampling = threading.Lock()  # counters add up from one reading to the next
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Telemetry":
        self.sample()
        if self.meters:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for meter in self.meters:
            meter.close()

    def sample(self) -> None:
        """Read every meter now; the thread calls this, and a run at its ends so that short ones are covered."""
        if not self.meters:
            return
        with self._sampling:
            readings = [meter.read() for meter in self.meters]
            self._readings.append(readings)
            self._times.append(time.perf_counter())  # last, so that a reader never sees a time without readings

    def usage(self, began: float, ended: float) -> Usage:
        """What the sensors said from one `time.perf_counter()` to another."""
        times = list(self._times)
        # The readings around the stretch belong to it: a short one may lie between two.
        first, last = max(0, bisect.bisect_right(times, began) - 1), bisect.bisect_left(times, ended) + 1
        rows = self._readings[first:last]
        times = times[first:last]
        everything = list(itertools.chain.from_iterable(rows))
        usage: dict[str, object] = {
            "load": _mean([reading.load for reading in everything]),
            "celsius": max((r.celsius for r in everything if r.celsius is not None), default=None),
            "device_bytes": max((r.device_bytes for r in everything if r.device_bytes is not None), default=None),
        }
        rails = next((row_rails for row_rails in map(_mean_rails, zip(*rows, strict=True)) if row_rails), {})
        for i, meter in enumerate(self.meters):
            if (joules := _energy(times, [row[i] for row in rows], began, ended)) is not None:
                usage |= {"joules": joules, "watts": joules / (ended - began)}
                usage["meter"] = f"{meter.name} ({meter.covers})"
                break
        return Usage(rails=rails, **usage)  # type: ignore[arg-type]

    def power(self) -> list[tuple[float, float]]:
        """(time, watts) of the first meter that tells power, for a plot."""
        for i in range(len(self.meters)):
            curve = [
                (t, w) for t, row in zip(self._times, self._readings, strict=False) if (w := row[i].watts) is not None
            ]
            if curve:
                return curve
        return []

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.sample()


def _energy(times: Sequence[float], readings: Sequence[Reading], began: float, ended: float) -> float | None:
    """Joules between two moments: off the counter, or power integrated by trapezoids, held constant at the ends."""
    if ended <= began:
        return None
    counted = [(t, reading.joules) for t, reading in zip(times, readings, strict=True) if reading.joules is not None]
    if len(counted) >= 2:
        return _at(counted, ended) - _at(counted, began)
    powers = [(t, reading.watts) for t, reading in zip(times, readings, strict=True) if reading.watts is not None]
    if not powers:
        return None
    inside = [(t, watts) for t, watts in powers if began < t < ended]
    points = [(began, _at(powers, began)), *inside, (ended, _at(powers, ended))]
    return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in itertools.pairwise(points))


def _at(points: Sequence[tuple[float, float]], when: float) -> float:
    """The value of a polyline; beyond its ends, that of the end."""
    if when <= points[0][0]:
        return points[0][1]
    for (t0, v0), (t1, v1) in itertools.pairwise(points):
        if t0 <= when <= t1:
            return v0 + (v1 - v0) * (when - t0) / (t1 - t0) if t1 > t0 else v1
    return points[-1][1]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_rails(readings: Sequence[Reading]) -> dict[str, float]:
    rails = [reading.rails for reading in readings if reading.rails]
    return {name: sum(row.get(name, 0.0) for row in rails) / len(rails) for name in rails[0]} if rails else {}
