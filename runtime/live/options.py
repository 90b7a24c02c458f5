"""How a stream is watched."""

from dataclasses import dataclass
from typing import Literal

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.sampling import GREEDY, Sampling
from score_edge.selection.registry import knows_question


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How to watch.

    Attributes:
        fps: frames per second to take from each source; None takes the bundle's.
        retention, selector: None takes the bundle's. ``score-query`` chooses among all tokens of the `window` when a
            question comes; until then ``score`` tells what surprises.
        memory: ``kept`` remembers the tokens that the selector keeps; ``newest`` the newest `window` steps entirely and
            nothing else (SimpleStream): the baseline to beat.
        window: newest steps of a camera that are remembered.
        pinned: share of the memory for the highest-scoring tokens of older steps.
        question: asked again and again of each camera, every `every_s` seconds of its stream or when it surprises.
        every_s: 0 never.
        when_surprised: whether a jump of kept tokens asks it, at most every 10 s.
        max_tokens: longest answer.
        sampling: how answers are generated.

    Raises:
        ScoreEdgeError: options that contradict each other.
    """

    fps: float | None = None
    retention: float | None = None
    selector: str | None = None
    memory: Literal["kept", "newest"] = "kept"
    window: int | None = 64
    pinned: float = 0.0
    question: str = ""
    every_s: float = 0.0
    when_surprised: bool = False
    max_tokens: int = 64
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        selects = self.selector not in (None, "all") or self.retention not in (None, 1.0) or self.pinned
        if self.memory == "newest" and selects:
            raise ScoreEdgeError(
                "a memory of the newest steps keeps them entirely and nothing else",
                "leave out selector, retention and pinned, or take the memory 'kept'",
            )
        if self.by_question and self.pinned:
            raise ScoreEdgeError("score-query pins nothing: it chooses when the question comes", "leave out pinned")

    @property
    def by_question(self) -> str | None:
        """The selector that chooses when the question comes; None where tokens are chosen while watching."""
        return self.selector if knows_question(self.selector) else None

    @property
    def select_by(self) -> str | None:
        """What selects while watching; a memory of the newest steps keeps every token."""
        if self.by_question:
            return "score"
        return "all" if self.memory == "newest" else self.selector
