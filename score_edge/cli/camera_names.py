"""Names of cameras on the command line and in what a person types."""

import os
import re
from collections.abc import Sequence

import typer

from score_edge.runtime.sources.address import Address

_NAMED_SOURCE = re.compile(r"([^\W\d][\w.-]*)=(.+)", re.DOTALL)
_NAMED_QUESTION = re.compile(r"([\w.-]+)>(.*)", re.DOTALL)


def named_sources(given: Sequence[str]) -> dict[str, Address]:
    """``front=rtsp://...`` by name; a single source needs none, and its name is empty then.

    Raises:
        typer.BadParameter: of several sources one has no name, or two have the same.

    Example:
        >>> named_sources(["front=synthetic://", "yard=-?size=96x96"])["yard"].raw()
        '-?size=96x96'
        >>> list(named_sources(["rtsp://camera/live?channel=1"]))
        ['']
    """
    found: dict[str, Address] = {}
    for text in given:
        there = os.path.exists(text)  # noqa: PTH110 - Path.exists raises for a name that is too long
        named = None if there else _NAMED_SOURCE.fullmatch(text)
        name, address = named.groups() if named else ("", text)
        if len(given) > 1 and not name:
            raise typer.BadParameter(f"of several sources each needs a name: --source front={Address(address)}")
        if name in found:
            raise typer.BadParameter(f"two sources are called {name}")
        found[name] = Address(address)
    return found


def named_question(line: str, cameras: Sequence[str]) -> tuple[str | None, str]:
    """``front> what moved?`` as camera and question; None asks the only camera, or all of them.

    Example:
        >>> named_question("front> what moved?", ["front", "yard"])
        ('front', 'what moved?')
        >>> named_question("what moved?", ["front", "yard"])
        (None, 'what moved?')
    """
    named = _NAMED_QUESTION.fullmatch(line.strip()) if any(cameras) else None
    return (named[1], named[2].strip()) if named else (None, line.strip())
