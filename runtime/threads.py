"""How many CPUs there are to compute on, and how many of them others are using."""

import math
import os
import time
from pathlib import Path

from score_edge.errors import ScoreEdgeError

_STAT = Path("/proc/stat")
_OWN_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_LOOK_EVERY_S = 0.1  # the kernel counts in hundredths of a second
_NOISE = 0.3  # of a CPU
_IDLE = (3, 4)  # columns of /proc/stat: idle and waiting for a disk


def usable_cpus() -> int:
    """CPUs this process may use; in a container or a service (``docker --cpus``, ``CPUQuota=``) no more than its quota.

    Threads beyond a quota are all stopped together, again and again, once they have used it up.
    """
    return max(1, math.floor(min(_visible_cpus(), _quota())))


def _visible_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float:
    """CPUs that the control groups of this process allow (cgroup v2); infinite where none says."""
    try:
        own = next(line[3:] for line in _OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError, StopIteration):
        return math.inf
    least, group = math.inf, _GROUPS / own.lstrip("/")
    for place in (group, *group.parents):  # the path may be that of the host, not to be seen from in here
        try:
            quota, period = (place / "cpu.max").read_text().split()
            least = min(least, int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):  # none there, or "max"
            continue
    return least


def check_threads(threads: int | None) -> None:
    """Refuse more threads than CPUs: those that compute wait, spinning, for those that do not.

    Raises:
        ScoreEdgeError: there are more.
    """
    cpus = usable_cpus()
    if threads is not None and threads > cpus:
        raise ScoreEdgeError(
            f"{threads} threads are more than the {cpus} CPUs of this process, and would only wait for each other",
            f"--threads {cpus}, or leave it out: then as many are used as CPUs are free",
        )


class OtherLoad:
    """CPUs that other processes use, of those that this one may use, from one look to the next."""

    def __init__(self) -> None:
        self._ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self._last = self._look()

    def cpus(self) -> float | None:
        """Since the last call, on average; None where the kernel does not tell or too little time has passed."""
        if time.monotonic() - self._last[0] < _LOOK_EVERY_S:
            return None
        now = self._look()
        before, self._last = self._last, now
        if now[1] is None or before[1] is None:
            return None
        busy, own = (now[1] - before[1]) / self._ticks, now[2] - before[2]
        return max(0.0, busy - own) / (now[0] - before[0])

    def _look(self) -> tuple[float, int | None, float]:
        return time.monotonic(), _busy_ticks(), time.process_time()


def other_load(seconds: float = 0.3) -> float:
    """CPUs that other processes use during the next `seconds`; 0 where the kernel does not tell."""
    load = OtherLoad()
    time.sleep(max(seconds, 1.5 * _LOOK_EVERY_S))
    return load.cpus() or 0.0


class FreeThreads:
    """As many threads as CPUs are free.

    Threads that compute together wait for each other. Where another process holds one of their CPUs, all wait for its
    turn to end, again and again: two threads beside one busy process are ten times slower than one.

    Args:
        most: threads to use on an idle machine.
    """

    def __init__(self, most: int) -> None:
        self._most = self._count = most
        self._cpus = max(most, _visible_cpus())
        self._load = OtherLoad()

    def count(self) -> int:
        """How many to use now; cheap enough for every call of a model."""
        others = self._load.cpus() if self._most > 1 else None
        if others is not None:
            # One that wants a whole CPU gets less while we hold it: a third of one counts as taken.
            self._count = max(1, min(self._most, self._cpus - math.ceil(others - _NOISE)))
        return self._count


def _busy_ticks() -> int | None:
    """Ticks that the usable CPUs were busy since the machine started."""
    try:
        lines = _STAT.read_text(encoding="ascii").split("\nintr", 1)[0].splitlines()
    except (OSError, ValueError):
        return None
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = 0
    for line in lines:
        name, *columns = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and (usable is None or int(name[3:]) in usable):
            busy += sum(int(ticks) for i, ticks in enumerate(columns[:8]) if i not in _IDLE)
    return busy
