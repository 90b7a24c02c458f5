"""What reaches the terminal: nothing foreign is read as markup, and no text can move the cursor or rewrite a line.

Answers, questions, file names and error messages come from models, users and files. Both consoles here print every
text as it is, so `[person]` stays; our own colours are `Text` objects. What is printed past them goes through `plain`.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_FILE_COLUMNS = 200
_KEPT = "\n\t"
_ODD = "\N{REPLACEMENT CHARACTER}"
# C0 controls and DEL as their pictures; C1 controls, and marks that turn the reading direction, as one odd character.
_PICTURES: dict[int, str] = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in _KEPT},
    127: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F], _ODD),
    **dict.fromkeys(range(0xD800, 0xE000), _ODD),
}
_UNSHOWN = re.compile(f"[{''.join(map(chr, _PICTURES))}]")


def plain(text: str) -> str:
    """A text that a terminal only shows: control characters become visible. Pieces may be given one by one.

    Example:
        >>> plain("done" + chr(27) + "[2J")
        'done␛[2J'
    """
    return text.translate(_PICTURES)


class Terminal(Console):
    """A console that takes no text for markup and lets no control character of a text through."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _FILE_COLUMNS  # what goes into a file or a pipe is not folded to a screen

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does; made plain before it is laid out, because a control character has no width."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with every segment of text made plain, and no cell of a table cut off."""
        if isinstance(renderable, Table):
            for column in renderable.columns:
                column.overflow = "fold"
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


out = Terminal()
err = Terminal(stderr=True)


def say(label: str, style: str, text: str) -> None:
    """One line on stderr that begins with a coloured word; a name with a line end in it makes no second one."""
    shown = plain(text).replace("\n", "\N{SYMBOL FOR NEWLINE}")
    err.print(Text.assemble((f"{label}:", style), f" {shown}"), soft_wrap=True)


def print_piece(text: str) -> None:
    """A piece of an answer on stdout, at once."""
    print(plain(text), end="", flush=True)


def json_line(value: Any) -> str:
    """A value as one line of JSON that a terminal only shows, too: what is no plain character is escaped."""
    return _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def print_json(value: Any) -> None:
    """One line on stdout."""
    print(json_line(value))


def progress_bar() -> Progress:
    """A bar on stderr; nothing where that is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def prepare_streams() -> None:
    """Make standard streams that are closed harmless, and let none fail on a character it cannot show."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would be taken for the terminal
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")  # Python has none where it was closed
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Send what is still to be written on stdout nowhere: nobody reads it, or there is no room for it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
