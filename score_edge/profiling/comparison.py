"""Two profiles side by side: ratios with their noise, and what makes the comparison unfair."""

from dataclasses import dataclass

from score_edge.profiling.environment import differences
from score_edge.profiling.figures import Ratio, compare
from score_edge.profiling.report import STAGES, Report

_ABOUT = ("subject", "source", "selector", "steps", "frames", "answer_tokens")


@dataclass(frozen=True, slots=True)
class Change:
    """One stage at one retention, then and now, seconds per answer."""

    retention: float
    stage: str
    old: float
    new: float
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """What changed.

    Attributes:
        changes: for every stage that both profiles measured at the same retention.
        warnings: what was not equal, one line each.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


def compare_reports(new: Report, old: Report) -> ReportComparison:
    """Compare stage by stage; a ratio above 1 means that the new one is slower."""
    before = {variant.retention: variant for variant in old.variants}
    changes = []
    for variant in new.variants:
        if variant.retention not in before:
            continue
        theirs = before[variant.retention].stages
        for name in STAGES:
            if name in variant.stages and name in theirs:
                figure, reference = variant.stages[name].answer, theirs[name].answer
                if (ratio := compare(figure, reference)) is not None:
                    changes.append(Change(variant.retention, name, reference.median, figure.median, ratio))
    unequal = [
        f"{name}: {getattr(old, name)} then, {getattr(new, name)} now"
        for name in _ABOUT
        if getattr(new, name) != getattr(old, name)
    ]
    for when, environment in (("then", old.environment), ("now", new.environment)):
        if environment.busy:
            unequal.append(f"{when} other programs kept {environment.load:g} CPUs busy, which the noise does not show")
    return ReportComparison(tuple(changes), (*unequal, *differences(new.environment, old.environment)))
