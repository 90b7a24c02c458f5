"""Steps of a stream as a clip of their own: numbered from 0, and no pause longer than a model's positions allow."""

from collections.abc import Sequence
from dataclasses import replace

from score_edge.runtime.language.layout import Layout, StepTokens


def longest_pause(layout: Layout, trained: int | None, *, span: int, held: int, window: int) -> int:
    """By how many steps two may lie apart where pauses take positions, so that half of those trained are left.

    Args:
        layout: of the model's family.
        trained: positions the model was trained on; None: without end.
        span: steps from the first of the clip to what follows it.
        held: steps of the clip.
        window: newest steps that stay, 0 where only cells bound them.
    """
    if trained is None or not layout.one_block:
        return max(1, span)
    room = max(int(trained / 2 / layout.positions_per_step), window)
    return max(1, span if span <= room else room // max(1, held))


def shortened(steps: Sequence[StepTokens], pause: int, spacing: float, first_s: float = 0.0) -> list[StepTokens]:
    """The same steps, oldest first, numbered from 0.

    Args:
        steps: with the stream's numbers and seconds.
        pause: from `longest_pause`.
        spacing: seconds between two steps at the bundle's own rate.
        first_s: of the first.
    """
    number, seconds, found = 0, first_s, list[StepTokens]()
    for before, step in zip([None, *steps], steps, strict=False):
        if before is not None:
            number += min(step.number - before.number, pause)
            seconds += min(step.seconds - before.seconds, pause * spacing)
        found.append(replace(step, number=number, seconds=seconds))
    return found
