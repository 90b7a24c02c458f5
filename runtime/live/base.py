"""What every memory of a camera offers."""

from collections.abc import Generator
from typing import Protocol

from score_edge.core import Float32, Mask
from score_edge.runtime.language.layout import StepTokens
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling


class Memory(Protocol):
    """What a camera remembers: `VideoMemory`, or `QueryMemory`, which chooses when the question comes."""

    cells: int
    rebased: int

    @property
    def used(self) -> int:
        """KV cells that the video takes."""
        ...

    @property
    def steps(self) -> int:
        """Steps held."""
        ...

    @property
    def tokens(self) -> int:
        """Visual tokens held."""
        ...

    def append(self, tokens: Float32, keep: Mask, scores: Float32, seconds: float | None = None) -> Mask:
        """Take the next step in; returns what was kept of it."""
        ...

    def answer(self, question: str, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """Answer piece by piece; the memory is then as it was."""
        ...

    def clip(self, question: str) -> list[StepTokens]:
        """What the model would be shown, oldest step first, as a clip of its own."""
        ...
