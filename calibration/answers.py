"""Whether INT8 costs answers: the reference world's questions, asked of two bundles on the same clips."""

from collections.abc import Callable
from dataclasses import dataclass

from score_edge.bundle.folder import Bundle
from score_edge.evaluation.accuracy import EvaluationPlan, evaluate

RETENTIONS = (0.25, 0.1)
STEPS = 32  # of 8, a tenth lies in the first step kept entirely for selectors that take it first


@dataclass(frozen=True, slots=True)
class Answers:
    """Share of right answers with either encoder, to the same questions.

    Attributes:
        asked: number of questions.
    """

    selector: str
    retention: float
    asked: int
    fp32: float
    int8: float


def compare_answers(
    fp32: Bundle, int8: Bundle, clips: int, on_clip: Callable[[], None] = lambda: None
) -> list[Answers]:
    """Evaluate both on `clips` clips of the reference world, unpruned and at RETENTIONS.

    Args:
        fp32: a bundle that knows the reference world.
        int8: the same with another encoder.
        clips: per bundle; of the evaluation's own seed, which no training and no calibration uses.
        on_clip: called after every clip of either.
    """
    plan = EvaluationPlan((fp32.manifest.selector.name,), RETENTIONS, (STEPS,), clips=clips)
    before, after = (
        {
            (row.selector, row.retention): row
            for row in evaluate(bundle.folder, plan, on_clip=on_clip)
            if row.kind == "overall"
        }
        for bundle in (fp32, int8)
    )
    return [
        Answers(selector, retention, row.asked, row.accuracy, after[selector, retention].accuracy)
        for (selector, retention), row in before.items()
    ]
