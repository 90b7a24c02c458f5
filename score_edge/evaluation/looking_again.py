"""What looking again when unsure is worth: right answers over the mean number of tokens read, beside fixed budgets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from score_edge.evaluation.accuracy import ANSWER_TOKENS
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
    """

    retentions: tuple[float, ...]
    right: NDArray[np.bool_]
    probability: NDArray[np.float64]

    def fixed(self) -> list[tuple[float, float]]:
        """(share of tokens read, share of right answers) per budget."""
        return list(zip(self.retentions, self.right.mean(axis=0).tolist(), strict=True))

    def looking(self, chain: Sequence[float], sure: float) -> tuple[float, float]:
        """The same for looking on, along a chain of budgets, until the answer is probable enough; all looks are paid.

        Args:
            chain: of `retentions`, rising.
            sure: probability from which on an answer is taken.
        """
        columns = [self.retentions.index(retention) for retention in chain]
        enough = self.probability[:, columns] >= sure
        enough[:, -1] = True
        last = enough.argmax(axis=1)
        paid = np.cumsum(chain)[last]
        return float(paid.mean()), float(self.right[np.arange(len(last)), np.array(columns)[last]].mean())


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

    return Looks(tuple(retentions), table(right) > 0, table(probability))


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
