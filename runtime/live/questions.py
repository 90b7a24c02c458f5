"""Questions that wait for their answers."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.sampling import GREEDY, Sampling
from score_edge.runtime.live.events import Answered, Why

MOST_WAITING = 8
"""One more is refused."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A question that waits.

    Attributes:
        camera: that is asked; None asks all of them.
        asked: when, by ``time.monotonic()``.
        about: arrival of the newest frame it is about.
        done: what the answer will be.
        max_tokens, sampling: of the answer.
        on_text: told every piece; what it raises ends the answer.
    """

    question: str
    why: Why
    camera: str | None
    asked: float
    about: float
    done: "Future[Answered]"
    max_tokens: int = 64
    sampling: Sampling = GREEDY
    on_text: Callable[[str], None] = lambda piece: None


class QueueFullError(ScoreEdgeError):
    """Too many questions wait already: later there will be room."""


class StreamEndedError(ScoreEdgeError):
    """There is nobody any more who answers."""


class Questions:
    """A bounded queue; whoever uses it from several threads locks it."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def put(self, waiting: Waiting) -> None:
        """Let one more wait.

        Raises:
            QueueFullError: too many wait already.
        """
        self.take_all(lambda other: other.done.cancelled())  # nobody wants their answers any more
        if len(self._waiting) >= MOST_WAITING:
            raise QueueFullError(f"{MOST_WAITING} questions are waiting already", "ask again after an answer")
        self._waiting.append(waiting)

    def first(self, ready: Callable[[Waiting], bool]) -> Waiting | None:
        """The one that has waited longest of those that can be answered; it stays in the queue."""
        return next((waiting for waiting in self._waiting if ready(waiting)), None)

    def take(self, ready: Callable[[Waiting], bool]) -> Waiting | None:
        """The same, and it waits no longer."""
        found = self.first(ready)
        if found:
            self._waiting.remove(found)
        return found

    def take_all(self, of: Callable[[Waiting], bool]) -> list[Waiting]:
        """Those of a kind, and they wait no longer."""
        taken = [waiting for waiting in self._waiting if of(waiting)]
        self._waiting = deque(waiting for waiting in self._waiting if not of(waiting))
        return taken


def refuse(waiting: list[Waiting], reason: ScoreEdgeError) -> None:
    """Tell those who wait why there will be no answer."""
    for each in waiting:
        if each.done.set_running_or_notify_cancel():
            each.done.set_exception(reason)
