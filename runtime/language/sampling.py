"""How the next token is drawn, and how an answer ends."""

from dataclasses import dataclass
from typing import Literal

from score_edge.errors import ScoreEdgeError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is generated.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token, whatever `top_p` and `seed` are.
        top_p: of the likeliest tokens as many as have this probability together.
        seed: of the draws; None takes another one each time.
        repeat_penalty: divides the logits of the newest 64 tokens of the answer; 1 leaves them.
        stop: texts that end the answer, without being part of it.
        grammar: GBNF that the answer must follow, see `runtime/language/json_grammar.py`; empty for free text.

    Raises:
        ScoreEdgeError: a value out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    repeat_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("repeat_penalty", self.repeat_penalty, 0.01, 100.0),
        ):
            if not low <= value <= high:
                raise ScoreEdgeError(f"{name} is {value}, but must lie between {low:g} and {high:g}")
        if not all(self.stop):
            raise ScoreEdgeError("an empty text cannot end an answer", "leave it out of the stop texts")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended; what `Sequence.generate` returns.

    Attributes:
        tokens: that were generated, the one that ended it included.
        reason: ``stop`` by itself or by a stop text, ``length`` where it was cut off.
        prompt: tokens of all that stood before it; 0 where the backend does not tell.
    """

    tokens: int
    reason: Literal["stop", "length"]
    prompt: int = 0


class GrammarText:
    """Bytes of an answer as the grammar counted them: a character each, however badly it is encoded.

    llama.cpp reads as many bytes as the first of them announces, and also characters that UTF-8 does not allow.
    """

    def __init__(self) -> None:
        self._bytes = b""

    def decode(self, piece: bytes, final: bool = False) -> str:
        """The characters that are whole now."""
        self._bytes += piece
        text = ""
        while self._bytes:
            length = (1, 2, 3, 4)[(self._bytes[0] >= 0xC0) + (self._bytes[0] >= 0xE0) + (self._bytes[0] >= 0xF0)]
            if len(self._bytes) < length and not final:
                break
            character, self._bytes = self._bytes[:length], self._bytes[length:]
            try:
                text += character.decode()
            except UnicodeDecodeError:
                text += "\N{REPLACEMENT CHARACTER}"
        return text


class StopTexts:
    """Looks for texts that end an answer in its pieces, and holds back what may be the beginning of one.

    Example:
        >>> stop = StopTexts(("END",))
        >>> stop.feed("the E"), stop.feed("ND of it"), stop.found
        ('the ', '', True)
    """

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts, self._held, self.found = texts, "", False

    def feed(self, piece: str) -> str:
        """What can be shown now that this piece came."""
        if not self._texts:
            return piece
        held = self._held + piece
        places = [place for text in self._texts if (place := held.find(text)) >= 0]
        if places:
            self.found, self._held = True, ""
            return held[: min(places)]
        longest = max(map(len, self._texts)) - 1
        starts = (n for n in range(min(longest, len(held)), 0, -1) if held.endswith(tuple(t[:n] for t in self._texts)))
        keep = next(starts, 0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def rest(self) -> str:
        """What is still held back when the answer ends."""
        held, self._held = self._held, ""
        return held
