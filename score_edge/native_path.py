"""Paths on their way into OpenCV and ONNX Runtime, which take UTF-8 and nothing else."""

import os
from pathlib import Path

from score_edge.errors import ScoreEdgeError


def native_path(path: str | Path) -> str:
    """The same place in words that every library reads, whatever the locale.

    Python decodes file names by the locale; libraries encode them as UTF-8 again, which names another file under an
    ISO-8859-1 locale, and a name that is no UTF-8 at all crashes them. llama.cpp takes ``os.fsencode(path)``.

    Returns:
        Text whose UTF-8 bytes are the bytes of the path: absolute, or where only the working folder's name is at
        fault, relative to it with ``./`` in front, so that nothing takes "a:b.mp4" for a protocol.

    Raises:
        ScoreEdgeError: the name is not UTF-8.

    Example:
        >>> native_path("/data/clip.mp4")
        '/data/clip.mp4'
    """
    absolute = Path(path).absolute()
    for candidate in (str(absolute), os.path.join(".", os.path.relpath(absolute))):  # noqa: PTH118
        try:
            return os.fsencode(candidate).decode("utf-8")
        except UnicodeDecodeError:
            continue
    raise ScoreEdgeError(
        f"the name of {printable(path)} is not UTF-8, and OpenCV and ONNX Runtime open no other",
        "rename it, for example: convmv -f iso-8859-1 -t utf-8 --notest NAME",
    )


def printable(path: str | Path) -> str:
    """A path for people: what is not UTF-8 in it as a replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")
