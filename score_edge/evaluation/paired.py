"""Whether one selector beats another: the same questions asked of both, question by question."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from score_edge.evaluation.accuracy import QuestionResult


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of `selector` less that of `against`, on the same questions.

    Attributes:
        difference: in shares of right answers.
        low, high: its 95 % interval, clips drawn anew: questions about one clip are right and wrong together.
        asked: questions.
    """

    selector: str
    against: str
    retention: float
    steps: int
    difference: float
    low: float
    high: float
    asked: int

    @property
    def decided(self) -> bool:
        """The interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_differences(results: Sequence[QuestionResult], base: str | None = None) -> list[PairedDifference]:
    """Every pruned selector against one, at each retention and length.

    Args:
        results: of `ask_everything`.
        base: name of the selector compared with, its options aside; None takes the first pruned one.

    Returns:
        In the order of the results; the interval is that of a ratio of sums over clips (linearised).
    """
    groups: dict[tuple[float, int], dict[str, list[QuestionResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.retention < 1:
            groups[result.retention, result.steps][result.selector].append(result)
    found = []
    for (retention, steps), selectors in groups.items():
        names = [name for name in selectors if base is None or name.partition(":")[0] == base]
        if not names:
            continue
        for name, asked in selectors.items():
            if name == names[0]:
                continue
            share, half = _difference(asked, selectors[names[0]])
            bounds = share - half, share + half
            found.append(PairedDifference(name, names[0], retention, steps, share, *bounds, len(asked)))
    return found


def _difference(ours: Sequence[QuestionResult], theirs: Sequence[QuestionResult]) -> tuple[float, float]:
    """The mean difference and half its 95 % interval."""
    per_clip: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(ours, theirs, strict=True):
        per_clip[a.clip].append(int(a.right) - int(b.right))
    sums = np.array([sum(values) for values in per_clip.values()], float)
    counts = np.array([len(values) for values in per_clip.values()], float)
    share = float(sums.sum() / counts.sum())
    spread = sums - share * counts
    clips = len(sums)
    error = math.sqrt(float((spread**2).sum()) * clips / max(1, clips - 1)) / float(counts.sum())
    return share, 1.959964 * error
