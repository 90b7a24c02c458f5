"""Whether one selector beats another: the same questions asked of both, question by question."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from score_edge.evaluation.accuracy import MEAN, QuestionResult
from score_edge.evaluation.intervals import over_clips


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of `selector` less that of `against`, on the same questions.

    Attributes:
        difference: in shares of right answers.
        low, high: its 95 % interval, see `over_clips`.
        asked: questions.
        world: a regime, or MEAN.
    """

    selector: str
    against: str
    retention: float
    steps: int
    difference: float
    low: float
    high: float
    asked: int
    world: str = "plain"

    @property
    def decided(self) -> bool:
        """The interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_differences(results: Sequence[QuestionResult], base: str | None = None) -> list[PairedDifference]:
    """Every pruned selector against one, at each retention and length, per regime and over several.

    Args:
        results: of `ask_everything`.
        base: name of the selector compared with, its options aside; None takes the first pruned one.

    Returns:
        In the order of the results, means last.
    """
    worlds = dict.fromkeys(result.world for result in results)
    groups: dict[tuple[str, float, int], dict[str, list[QuestionResult]]] = defaultdict(lambda: defaultdict(list))
    for regime in (*worlds, MEAN) if len(worlds) > 1 else worlds:
        for result in results:
            if result.retention < 1 and regime in (result.world, MEAN):
                groups[regime, result.retention, result.steps][result.selector].append(result)
    found = []
    for (regime, retention, steps), selectors in groups.items():
        names = [name for name in selectors if base is None or name.partition(":")[0] == base]
        if not names:
            continue
        for name, asked in selectors.items():
            if name == names[0]:
                continue
            pairs = zip(asked, selectors[names[0]], strict=True)
            gained = [float(ours.right) - float(theirs.right) for ours, theirs in pairs]
            share, bounds = sum(gained) / len(gained), over_clips(asked, gained, -1.0)
            found.append(PairedDifference(name, names[0], retention, steps, share, *bounds, len(asked), regime))
    return found
