"""Steps of a stream as a clip of their own: numbered from 0, and no pause longer than a model's positions allow."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from score_edge.runtime.language.layout import Layout, StepTokens


class Pause(NamedTuple):
    """How far two steps that follow each other may lie apart."""

    steps: float = math.inf
    seconds: float = math.inf

    def numbers(self, before: int, after: int) -> int:
        """From the number of one step to that of a later one, at most."""
        return int(min(after - before, self.steps))


def longest_pause(layout: Layout, trained: int | None, *, span: int, seconds: float, held: int, window: int) -> Pause:
    """What a pause may take so that half of the positions trained are left; without end where it takes none.

    Args:
        layout: of the model's family. Pauses take positions in one block of rows: by their steps, or by their seconds.
        trained: positions the model was trained on; None: without end.
        span, seconds: from the first of the clip to what follows it.
        held: steps of the clip.
        window: newest steps that stay, 0 where only cells bound them.
    """
    if trained is None or not layout.one_block:
        return Pause()
    room = max(int(trained / 2 / layout.positions_per_step), window)
    longest = max(1, room // max(1, held))
    if layout.counts_seconds:
        return Pause() if seconds <= room * layout.spacing else Pause(seconds=longest * layout.spacing)
    return Pause() if span <= room else Pause(steps=longest)


def shortened(steps: Sequence[StepTokens], pause: Pause, first_s: float = 0.0) -> list[StepTokens]:
    """The same steps, oldest first, numbered from 0.

    Args:
        steps: with the stream's numbers and seconds.
        pause: from `longest_pause`.
        first_s: of the first.
    """
    number, seconds, found = 0, first_s, list[StepTokens]()
    for before, step in zip([None, *steps], steps, strict=False):
        if before is not None:
            number += pause.numbers(before.number, step.number)
            seconds += min(step.seconds - before.seconds, pause.seconds)
        found.append(replace(step, number=number, seconds=seconds))
    return found
