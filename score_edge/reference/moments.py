"""Moments of a clip of the reference world, and what can be asked there: about the last steps, and about the past.

The texts are those of `world.make_clip`, the answers what is true of the steps seen so far: a thing that has not moved
yet is one that never moved.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from score_edge.reference.world import FRAMES_PER_STEP, NUMBERS, Clip, Thing

About = Literal["last steps", "past", "moved before", "now"]
ABOUT: tuple[About, ...] = get_args(About)


@dataclass(frozen=True, slots=True)
class TimedQuestion:
    """A question put when some steps of a clip were seen.

    Attributes:
        step: how many.
        about: ``last steps``: an event that lies within them entirely. ``past``: what came first, what appeared before
            them, how many things have moved so far, of which one at least began before them. ``moved before``: what
            moved and had come to rest before them. ``now``: what drifts, what never moved: in view in every step.
        kind: one of `world.QUESTION_TYPES`.
    """

    step: int
    about: About
    kind: str
    text: str
    answer: str


def questions_after_events(clip: Clip, last: int, first: int = 8) -> list[TimedQuestion]:
    """All that can be asked one step after an event has ended, and at the end of the clip.

    Never while something is on its way: what it will be is open then.

    Args:
        clip: of the world.
        last: how many steps are the last steps.
        first: steps that must have been seen.
    """
    events = [thing for thing in clip.things if thing.role in ("mover", "flash")]
    steps = len(clip.images) // FRAMES_PER_STEP
    ends = {_end(thing) + 1 for thing in events if _end(thing) < steps} | {steps}
    free = [step for step in sorted(ends) if step >= first and not any(_is_under_way(t, step) for t in events)]
    return [question for step in free for question in _Moment(clip, step, last).questions()]


def _begin(thing: Thing) -> int:
    return int(thing.acting.argmax())


def _end(thing: Thing) -> int:
    """One past its last step."""
    return int(thing.acting.nonzero()[0][-1]) + 1


def _is_under_way(thing: Thing, step: int) -> bool:
    return _begin(thing) < step < _end(thing)


class _Moment:
    """The truth after some steps, `last` of which are the last steps."""

    def __init__(self, clip: Clip, step: int, last: int) -> None:
        self._step, self._since = step, step - last
        self._drifters = [thing for thing in clip.things if thing.role == "drifter"]
        self._movers = [thing for thing in clip.things if thing.role == "mover" and _begin(thing) < step]
        self._flashes = [thing for thing in clip.things if thing.role == "flash" and _begin(thing) < step]
        self._stills = [
            thing
            for thing in clip.things
            if thing.role == "still" or (thing.role == "mover" and thing not in self._movers)
        ]

    def questions(self) -> Iterator[TimedQuestion]:
        for mover in self._movers:
            if about := self._when(mover, "moved before"):
                yield from self._about_mover(mover, about)
        for flash in self._flashes:
            if about := self._when(flash, "past"):
                for aspect, answer in (("color", flash.color), ("shape", flash.shape)):
                    yield self._ask(about, "flash", f"what {aspect} was the thing that appeared briefly?", answer)
        yield from self._orders()
        if self._movers and min(map(_begin, self._movers)) < self._since:
            yield self._ask("past", "count", "how many things moved fast?", NUMBERS[len(self._movers)])
        for drifter in self._drifters:
            yield self._ask("now", "drift", "what color is the thing that drifts slowly?", drifter.color)
        shown = [thing.color for thing in (*self._stills, *self._flashes, *self._drifters)]
        for still in self._stills:
            if shown.count(still.color) == 1:
                text = f"what shape is the {still.color} thing that never moved?"
                yield self._ask("now", "still", text, still.shape)

    def _when(self, thing: Thing, before: About) -> About | None:
        """None where it lies across the border."""
        if _begin(thing) >= self._since:
            return "last steps"
        return before if _end(thing) <= self._since else None

    def _about_mover(self, mover: Thing, about: About) -> Iterator[TimedQuestion]:
        if [other.shape for other in self._movers].count(mover.shape) == 1:
            yield self._ask(about, "color", f"what color is the {mover.shape} that moved?", mover.color)
        if [other.color for other in self._movers].count(mover.color) == 1:
            yield self._ask(about, "shape", f"what shape is the {mover.color} thing that moved?", mover.shape)
        yield self._ask(about, "direction", f"which way did the {mover.name} move?", mover.direction)

    def _orders(self) -> Iterator[TimedQuestion]:
        events = sorted((*self._movers, *self._flashes), key=_begin)
        for number, (first, second) in enumerate(combinations(events, 2)):
            apart = _begin(second) - _begin(first) >= 2 and first.color != second.color
            if apart and _end(first) <= self._since:
                pair = (first, second) if (number + self._step) % 2 else (second, first)
                text = f"which came first, the {pair[0].name} or the {pair[1].name}?"
                yield self._ask("past", "order", text, first.color)

    def _ask(self, about: About, kind: str, text: str, answer: str) -> TimedQuestion:
        return TimedQuestion(self._step, about, kind, text, answer)
