"""Every rival at its best: dithering and first-step rule per selector and budget, chosen on clips of another seed."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from score_edge.errors import ScoreEdgeError
from score_edge.evaluation.accuracy import EvaluationPlan, ask_everything
from score_edge.reference import world

WEIGHTS = (0.0, 0.5, 1.0, 1.5)
FIRST = ("whole", "scored")
_AS_THEY_ARE = ("all", "uniform", "random", "newest")  # nothing that dithering or another first step could help


def candidates(selector: str) -> tuple[str, ...]:
    """What a selector is tried as; one whose options are given already stays as it is.

    Example:
        >>> len(candidates("evs")), candidates("evs:dither=1"), candidates("uniform")
        (8, ('evs:dither=1',), ('uniform',))
    """
    if ":" in selector or selector in _AS_THEY_ARE:
        return (selector,)
    return tuple(f"{selector}:dither={weight:g}:first={first}" for first in FIRST for weight in WEIGHTS)


def tune(
    bundle: str | Path, plan: EvaluationPlan, *, clips: int, on_clip: Callable[[], None] = lambda: None
) -> EvaluationPlan:
    """The same plan with every selector as it answers best on validation clips, at each retention.

    Args:
        bundle: folder, or "reference".
        plan: whose selectors to tune, at its first clip length.
        clips: of the validation seed.
        on_clip: called after every clip.

    Raises:
        ScoreEdgeError: the plan's own clips are those of the validation seed.
    """
    if plan.seed == world.VALIDATION_SEED:
        raise ScoreEdgeError(
            f"the clips of seed {plan.seed} are those that selectors are tuned on", "evaluate on others, as of seed 3"
        )
    trial = dataclasses.replace(
        plan,
        selectors=tuple(name for selector in plan.selectors for name in candidates(selector)),
        steps=plan.steps[:1],
        clips=clips,
        seed=world.VALIDATION_SEED,
    )
    right: dict[tuple[str, float], int] = defaultdict(int)
    for result in ask_everything(bundle, trial, on_clip=on_clip):
        right[result.selector, result.retention] += result.right
    tuned = {
        retention: tuple(
            max(candidates(selector), key=lambda name, r=retention: right[name, r])  # type: ignore[misc]
            for selector in plan.selectors
            if selector != "all"
        )
        for retention in plan.retentions
        if retention < 1
    }
    return dataclasses.replace(plan, tuned=tuned)
