"""What every language backend is: a model, and sequences, each one video's place in it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from score_edge.core import Float32, Int32, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.sampling import GREEDY, Ended, Sampling
from score_edge.runtime.turns import Turns


class ContextFullError(ScoreEdgeError):
    """More tokens than the KV cache of a sequence holds."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do with visual tokens.

    Attributes:
        width: floats per embedding row.
        context: tokens (KV cells) that fit into a sequence.
        keeps_positions: rows keep their (t, h, w) of the unpruned grid (M-RoPE); else they are numbered through.
        incremental: a sequence can be continued, and its end or its beginning forgotten.
        cell_bytes: that a token takes in the KV cache; None where the backend does not tell.
        trained: positions the model was trained on; None where the backend does not tell.
    """

    width: int
    context: int
    keeps_positions: bool
    incremental: bool
    cell_bytes: int | None = None
    trained: int | None = None

    def room(self, prompt: "Mark", most: int | None) -> int:
        """Tokens that an answer behind a prompt may have: `most` where they fit, one at least."""
        left = max(1, self.context - prompt.cells)
        return left if most is None else min(most, left)


@dataclass(frozen=True, slots=True)
class Rows:
    """Embedding rows in place of tokens, and where they stand.

    Attributes:
        embeddings: (n, D) float32.
        places: (n, 3) int32, (t, h, w) from the start of their block; they never go back in raster order.
        extent: positions the block takes: what follows starts that far behind its start.
        continues: these are later rows of the block that was appended last, and `places` count from its start.
    """

    embeddings: Float32
    places: Int32
    extent: int
    continues: bool = False

    @staticmethod
    def of(kept: KeptTokens, *, continues: bool = False) -> "Rows":
        """Kept tokens at their places in the unpruned grid; what follows goes on behind all of it (Qwen2-VL)."""
        extent = max(kept.steps, kept.grid.height, kept.grid.width)
        return Rows(kept.embeddings, kept.positions, extent, continues)

    def __len__(self) -> int:
        return len(self.embeddings)


@dataclass(frozen=True, slots=True)
class Question:
    """Text from outside between texts of the prompt: special tokens are parsed in the prompt's own text only."""

    before: str
    text: str
    after: str


Segment: TypeAlias = str | Question | Rows
"""A piece of a prompt. In a plain str, special tokens are parsed: it is the bundle's own text."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point in a sequence.

    Attributes:
        position: the next text position.
        cells: cells of the KV cache in use.
        block: the position at which the block of rows began that was appended last.
        end: one past the highest position of any cell; on M-RoPE a block's grid reaches behind its tokens.
    """

    position: int
    cells: int
    block: int = 0
    end: int = 0


class Sequence(Protocol):
    """One video's place in a language model."""

    def append(self, *segments: Segment) -> None:
        """Prefill segments, in as few calls as the backend allows.

        Raises:
            ScoreEdgeError: rows of a wrong width, not finite or out of order; a full context. The sequence is then as
                it was before, or empty where the model had begun and cannot go back.
        """
        ...

    @property
    def here(self) -> Mark:
        """Where the sequence ends now."""
        ...

    def mark(self) -> Mark:
        """`here`, to go back to with `rollback`. A model with a recurrent state goes back only to the last mark behind
        which something was appended."""
        ...

    def rollback(self, mark: Mark) -> None:
        """Forget everything behind a mark."""
        ...

    def forget(self, start: int, end: int, cells: int) -> bool:
        """Drop what stands at positions from `start` up to, but without, `end`.

        Args:
            start: first position to drop.
            end: first position that stays.
            cells: how many cells that frees. Where positions are numbered through, what stays moves up by as many.

        Returns:
            False where this model cannot; nothing was dropped then. Marks made earlier are worthless afterwards.
        """
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    def logits(self) -> Float32:
        """(V,) float32 logits of the next token, when text was appended last."""
        ...

    def generate(self, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """An answer, piece by piece, until an end-of-generation token, a stop text or max_tokens.

        Raises:
            ScoreEdgeError: a grammar that cannot be read, or the backend does not sample so.
        """
        ...

    def score(self, answer: str, *given: Segment) -> Float32:
        """How likely an answer is, given what is in the sequence; which stays as it is.

        Args:
            answer: of n tokens; special tokens are not parsed.
            given: appended before it, and forgotten with it.

        Returns:
            (n,) float32 log-probabilities of its tokens, each given all before it (teacher-forced).
        """
        ...

    def close(self) -> None:
        """Give the place back."""
        ...


class LanguageModel(Protocol):
    """Weights and a cache with places for one or more sequences."""

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    @property
    def turn(self) -> Turns:
        """Taken by each thread while it computes with the model."""
        ...

    @property
    def name(self) -> str:
        """The backend and what it runs on, for people."""
        ...

    def sequence(self) -> Sequence:
        """A new, empty sequence.

        Raises:
            ScoreEdgeError: all places are taken.
        """
        ...

    def count(self, text: str) -> int:
        """How many tokens a text is, where nothing stands before it that merges with it."""
        ...

    def rows_of(self, text: str) -> Float32:
        """(n, D) float32 rows that the tokens of a text from outside stand for.

        Raises:
            ScoreEdgeError: this backend does not tell them.
        """
        ...

    def close(self) -> None:
        """Free the model with all its sequences."""
        ...
