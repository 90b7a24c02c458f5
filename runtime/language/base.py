"""The interface every language model backend implements, and how one is opened by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from score_edge.core import Float32, KeptTokens


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do with visual tokens.

    Attributes:
        width: floats per embedding row.
        context: tokens (KV cells) that fit.
        keeps_positions: kept tokens keep their (t, h, w) of the unpruned grid (M-RoPE); else positions are compacted.
        incremental: tokens can be appended to what is already prefilled, and a question rolled back.
        cell_bytes: that a token takes in the KV cache; None where the backend does not tell.
    """

    width: int
    context: int
    keeps_positions: bool
    incremental: bool
    cell_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in the sequence to roll back to.

    Attributes:
        position: the next text position.
        cells: cells of the KV cache in use.
        video: the position at which the video began that was appended last.
    """

    position: int
    cells: int
    video: int = 0


class LanguageModel(Protocol):
    """A causal language model that takes text and embedding rows, one sequence at a time."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    def append_text(self, text: str) -> int:
        """Tokenise (special tokens are parsed) and prefill; returns the number of tokens."""
        ...

    def append_tokens(self, kept: KeptTokens, *, continued: bool = False) -> None:
        """Prefill visual tokens: a new video, or, continued, later steps of the one appended last.

        Step by step gives the same cache as all at once: every step carries the t it has in the whole video, and
        ``kept.steps`` counts the whole video so far.

        Raises:
            ScoreEdgeError: a wrong width, a row that is not finite, steps out of order, a full context.
        """
        ...

    def forget_oldest(self, cells: int, before_step: int) -> bool:
        """Drop the oldest visual tokens of the video; the text before it and all later steps stay.

        Args:
            cells: how many; exactly the tokens of all steps before ``before_step`` that are still there.
            before_step: t of the first step that stays.

        Returns:
            False where this model cannot, and nothing happened: reset it and append what should stay. Marks made
            earlier are worthless afterwards.
        """
        ...

    def logits(self) -> Float32:
        """(V,) float32 logits of the next token, after the last text was appended."""
        ...

    def generate(self, max_tokens: int) -> Iterator[str]:
        """Greedy answer, piece by piece, until an end-of-generation token or max_tokens."""
        ...

    def mark(self) -> Mark:
        """Where the sequence stands now."""
        ...

    def rollback(self, mark: Mark) -> None:
        """Forget everything after the mark, so that the next question sees only the video."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...
