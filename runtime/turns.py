"""Who computes next: one thread at a time, and the time is shared by weight (start-time fair queueing)."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

STEPS = 8.0
"""Weight of the steps of live cameras; everything else has 1."""
_PATIENCE = 0.2
"""Share of a turn for which the next one is kept for the same weight, where it is owed to it."""
_PATIENCE_S = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    thread: int
    weight: float


class Turns:
    """A lock for encoder and language model. Threads of one weight share one part of the time, in order of arrival.

    While threads of weights 8 and 1 both want all of it, they get 8/9 and 1/9. Whoever wants less than its part waits
    for no more than the turn that is being taken, and what it leaves goes to the others. The same thread may take its
    turn within its turn.

    Attributes:
        slice_s: how long a turn should last where work can be cut; None where nobody minds.

    Example:
        >>> turn = Turns()
        >>> with turn.weighing(STEPS), turn:
        ...     "compute"
        'compute'
    """

    def __init__(self) -> None:
        self.slice_s: float | None = None
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._owner: _Waiting | None = None
        self._depth = 0
        self._began = 0.0
        self._now = 0.0  # virtual time: seconds over weight
        self._until: dict[float, float] = {}  # by weight, the virtual time at which its last turn ended
        self._kept_for, self._kept_until = 1.0, 0.0
        self._local = threading.local()

    @contextlib.contextmanager
    def weighing(self, weight: float) -> Iterator[None]:
        """Turns that this thread takes in the block have this weight."""
        before = self._weight
        self._local.weight = weight
        try:
            yield
        finally:
            self._local.weight = before

    def __enter__(self) -> "Turns":
        me = _Waiting(threading.get_ident(), self._weight)
        with self._changed:
            if self._owner is not None and self._owner.thread == me.thread:
                self._depth += 1
                return self
            self._waiting.append(me)
            try:
                while (wait_s := self._wait_s(me)) != 0:
                    self._changed.wait(wait_s)
            except BaseException:
                self._changed.notify_all()  # others may have waited for this one
                raise
            finally:
                self._waiting.remove(me)
            self._owner, self._depth, self._began = me, 1, time.perf_counter()
            self._now = self._start(me.weight)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._depth -= 1
            if self._depth or self._owner is None:
                return
            weight, ended = self._owner.weight, time.perf_counter()
            took = ended - self._began
            self._until[weight] = self._now + took / weight
            self._owner = None
            # Between two steps a camera's thread is away for a moment; that must not cost it a long turn of others.
            self._kept_for, self._kept_until = weight, ended + min(_PATIENCE * took, _PATIENCE_S)
            self._changed.notify_all()

    @property
    def _weight(self) -> float:
        return getattr(self._local, "weight", 1.0)

    def _start(self, weight: float) -> float:
        """The virtual time at which a turn of this weight would start now."""
        return max(self._now, self._until.get(weight, 0.0))

    def _wait_s(self, me: _Waiting) -> float | None:
        """0 where it is this one's turn; how long to wait for a change otherwise, None where only one can tell."""
        if self._owner is not None or min(self._waiting, key=lambda each: self._start(each.weight)) is not me:
            return None
        if self._start(me.weight) <= self._start(self._kept_for):
            return 0
        return max(0.0, self._kept_until - time.perf_counter())
