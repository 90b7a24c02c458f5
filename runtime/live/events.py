"""What a running stream tells its listeners. A terminal is one of them; none is needed."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from score_edge.core import Frame, Mask
from score_edge.errors import error_text
from score_edge.runtime.language.sampling import Ended

Why = Literal["asked", "every", "surprise"]


@dataclass(frozen=True, slots=True)
class StepSeen:
    """A step was taken into the memory.

    Attributes:
        step: counts from 0.
        frame: the newest of the step.
        keep: (N,) bool.
        encoded: (N,) bool, the cells that were encoded; the tokens of the others are those of an earlier step.
        surprise: far more was kept than usual.
        gap: the source was interrupted before this step.
        seconds: own time per stage: preprocess, encode, select, append.
        late_s: from the arrival of the frame to now.
        frames, dropped: of the source so far.
        used, cells: KV cells with visual tokens, and how many there may be.
        held: steps the memory reaches back.
        camera: whose it is; empty where the only one has no name.
        times_usual: kept tokens over their usual number, or over 1 where that is less.
    """

    step: int
    frame: Frame
    keep: Mask
    encoded: Mask
    surprise: bool
    gap: bool
    seconds: dict[str, float]
    late_s: float
    frames: int
    dropped: int
    used: int
    cells: int
    held: int
    camera: str = ""
    times_usual: float = 0.0


@dataclass(frozen=True, slots=True)
class AnswerBegan:
    """A question is being answered now; `camera` as in `Answered`."""

    question: str
    why: Why
    camera: str = ""


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """The next words of an answer; `camera` as in `Answered`."""

    question: str
    text: str
    camera: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question is done with.

    Attributes:
        time_s: stream time of the newest frame the model had seen.
        age_s: how long ago that frame had arrived when the answer began. Large means stale.
        source: what the source was doing, for example trying to reconnect, or why its newest step was left out; empty
            when all was well.
        ttft_s: from taking the question up to the first word.
        waited_s: from asking to taking it up.
        whole_s: from asking to the last word.
        stopped: it was stopped before its end.
        error: why there is no answer; empty when there is one.
        camera: that was asked; empty where all were, or the only one has no name. Of all, time and age are the largest.
        ended: how the answer did; None where there is none, or it was stopped.
        cached: tokens of the prompt that were there before the question.
        failure: what `error` tells of, as it was raised.
    """

    question: str
    text: str
    why: Why
    time_s: float
    age_s: float
    source: str
    ttft_s: float
    waited_s: float
    whole_s: float
    stopped: bool = False
    error: str = ""
    camera: str = ""
    ended: Ended | None = None
    cached: int = 0
    failure: Exception | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know: the signal is lost or back, frames are broken, recording stopped.

    Attributes:
        text: names the camera where it has a name.
        camera: that it is about; empty where the only one has no name, or it is about none.
    """

    text: str
    camera: str = ""


Event: TypeAlias = StepSeen | AnswerBegan | AnswerPiece | Answered | Notice
Listener: TypeAlias = Callable[[Event], None]


class Listeners:
    """Who is told what happens; one that raises is told nothing more.

    Args:
        listeners: from the beginning.
    """

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._all = list(listeners)

    def add(self, listener: Listener) -> None:
        """Tell this one too."""
        self._all.append(listener)

    def tell(self, event: Event) -> None:
        """Call every listener, in order."""
        for listener in list(self._all):
            if listener not in self._all:  # it failed at hearing that another one had
                continue
            try:
                listener(event)
            except Exception as error:
                with contextlib.suppress(ValueError):
                    self._all.remove(listener)
                self.tell(Notice(error_text(error)))
