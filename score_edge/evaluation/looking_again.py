"""What looking again when unsure is worth: right answers over the mean number of tokens read, beside fixed budgets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from score_edge.evaluation.accuracy import ANSWER_TOKENS
from score_edge.evaluation.intervals import over_clips
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline
from score_edge.selection.registry import Selector


@dataclass(frozen=True, slots=True)
class Looks:
    """Every question, asked at every budget.

    Attributes:
        retentions: (R,) rising.
        right: (M, R) bool.
        probability: (M, R) of the answer's first token.
        clips: (M,) number of the clip that a question is about.
    """

    retentions: tuple[float, ...]
    right: NDArray[np.bool_]
    probability: NDArray[np.float64]
    clips: NDArray[np.int64]

    def fixed(self) -> list[tuple[float, float]]:
        """(share of tokens read, share of right answers) per budget."""
        return list(zip(self.retentions, self.right.mean(axis=0).tolist(), strict=True))

    def looking(self, chain: Sequence[float], sure: float) -> tuple[float, float]:
        """The same for looking on, along a chain of budgets, until the answer is probable enough; all looks are paid.

        Args:
            chain: of `retentions`, rising.
            sure: probability from which on an answer is taken.
        """
        paid, right = self._looked(chain, sure)
        return float(paid.mean()), float(right.mean())

    def above_fixed(self, chain: Sequence[float], sure: float) -> tuple[float, tuple[float, float]]:
        """By how much that is ahead of a fixed budget of as many tokens, and the 95 % interval over clips.

        The fixed budget lies between two of `retentions`; its right answers are taken as linear in the logarithm of the
        tokens there, which is above the straight line that drawing one of the two at random would give.

        Args:
            chain, sure: as in `looking`, with a mean share of tokens between the first and the last of `retentions`.
        """
        paid, right = self._looked(chain, sure)
        budgets = np.array(self.retentions)
        above = min(max(int(np.searchsorted(budgets, paid.mean())), 1), len(budgets) - 1)
        width = float(np.log(budgets[above] / budgets[above - 1]))
        share = float(np.log(paid.mean() / budgets[above - 1])) / width
        low, high = self.right[:, above - 1], self.right[:, above]
        slope = (high.mean() - low.mean()) / width / paid.mean()
        gained = right - (1 - share) * low - share * high
        # The mean of what is paid is itself found on these clips: a clip that pays more moves along the curve.
        spread = gained - slope * (paid - paid.mean())
        asked = [_OfClip(int(clip)) for clip in self.clips]
        return float(gained.mean()), over_clips(asked, spread.tolist(), least=-1)

    def _looked(self, chain: Sequence[float], sure: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(M,) share of tokens read for each question, and whether its last answer was right."""
        columns = [self.retentions.index(retention) for retention in chain]
        enough = self.probability[:, columns] >= sure
        enough[:, -1] = True
        last = enough.argmax(axis=1)
        return np.cumsum(chain)[last], self.right[np.arange(len(last)), np.array(columns)[last]]


@dataclass(frozen=True, slots=True)
class _OfClip:
    clip: int


def ask_at_every_budget(
    pipeline: Pipeline,
    selector: Selector,
    retentions: Sequence[float],
    clips: Sequence[world.Clip],
    on_clip: Callable[[], None] = lambda: None,
) -> Looks:
    """Ask everything about some clips at every budget.

    Args:
        pipeline: open, with a backend that gives logits.
        selector: of the pipeline.
        retentions: rising, 1 for everything.
        clips: of the reference world.
        on_clip: called after each.
    """
    right, probability = [], []
    for clip in clips:
        tokens = pipeline.encode(clip.frames()).tokens
        for retention in retentions:
            pipeline.watch(tokens, pipeline.select(tokens, selector, retention))
            for question in clip.questions:
                pipeline.prefill_question(question.text)
                probability.append(pipeline.certainty())
                answer = "".join(pipeline.sequence.generate(ANSWER_TOKENS)).strip().lower()
                right.append(answer == question.answer)
        on_clip()
    shapes = [(len(retentions), len(clip.questions)) for clip in clips]
    ends = np.cumsum([a * b for a, b in shapes])[:-1]

    def table(values: Sequence[float]) -> NDArray[np.float64]:
        parts = np.split(np.array(values, np.float64), ends)
        return np.concatenate([part.reshape(shape).T for part, shape in zip(parts, shapes, strict=True)])

    numbers = np.repeat(np.arange(len(clips)), [len(clip.questions) for clip in clips])
    return Looks(tuple(retentions), table(right) > 0, table(probability), numbers)


def chosen_threshold(looks: Looks, chain: Sequence[float], most: float, thresholds: Sequence[float]) -> float:
    """The threshold that answers best on some clips at no more than `most` of the tokens on average.

    Args:
        looks: of validation clips.
        chain: of budgets.
        most: mean share of tokens.
        thresholds: to choose from.
    """
    found = {sure: looks.looking(chain, sure) for sure in thresholds}
    affordable = [sure for sure in thresholds if found[sure][0] <= most] or [min(thresholds)]
    return max(affordable, key=lambda sure: (found[sure][1], -found[sure][0]))
