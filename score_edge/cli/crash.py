"""What nobody foresaw: one line for the person, and a file with the details for whoever fixes it."""

import os
import platform
import re
import sys
import tempfile
import traceback

import score_edge
from score_edge.runtime.sources.address import Address

_ADDRESS = re.compile(r"\w[\w+.-]*://[^\s'\"]+")
_SECRETS = (
    (re.compile(r"\b(hf|sk|gh[pousr])_\w{8,}"), r"\1_***"),
    (re.compile(r"((?:token|password|passwd|pwd|secret|key|auth)[\w-]*[=:]\s*)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


def without_secrets(text: str) -> str:
    """The text with tokens and keys starred out, and of addresses what `Address` does not show.

    Example:
        >>> without_secrets("rtsp://ann:pw@camera/1?token=abc")
        'rtsp://***@camera/***'
    """
    text = _ADDRESS.sub(lambda found: str(Address(found[0])), text)
    for pattern, stars in _SECRETS:
        text = pattern.sub(stars, text)
    return text


def _shown(words: list[str]) -> list[str]:
    """Words of a command line, each without its secrets: an address to its end, and the value of ``--key``."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        named = re.match(r"(\w+=)?(?=\w[\w+.-]*://)", word)
        if before == "--key":
            shown.append("***")
        elif named:
            shown.append(named[0] + str(Address(word[named.end() :])))
        else:
            shown.append(without_secrets(word))
    return shown


def write_details(error: BaseException) -> str:
    """Write the traceback, the command line and the versions into a file of its own in the temporary folder.

    Returns:
        Its path; empty where it cannot be written.
    """
    words = sys.argv[1:]
    shown = _shown(words)
    trace = "".join(traceback.format_exception(error))
    for word, stars in zip(words, shown, strict=True):
        trace = trace.replace(word, stars) if word and word != stars else trace
    versions = f"score-edge {score_edge.__version__}, Python {sys.version.split()[0]}, {platform.platform()}"
    told = f"{versions}\ncommand: {shown}\n{without_secrets(trace)}"
    try:
        number, path = tempfile.mkstemp(prefix="score-edge-", suffix=".txt")  # readable by this user only
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(told)
    except OSError:
        return ""
    return path
