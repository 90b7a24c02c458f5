"""What nobody foresaw: one line for the person, and a file with the details for whoever fixes it."""

import os
import platform
import re
import sys
import tempfile
import traceback

import score_edge

_SECRETS = (
    (re.compile(r"(\w+://)[^/\s@'\"]+@"), r"\1***@"),
    (re.compile(r"\b(hf|sk|gh[pousr])_\w{8,}"), r"\1_***"),
    (re.compile(r"((?:token|password|passwd|pwd|secret|key|auth)[\w-]*[=:]\s*)[^&\s'\"]+", re.IGNORECASE), r"\1***"),
)


def without_secrets(text: str) -> str:
    """The text with names and passwords in addresses, tokens and keys starred out.

    Example:
        >>> without_secrets("rtsp://ann:pw@camera/1?token=abc")
        'rtsp://***@camera/1?token=***'
    """
    for pattern, stars in _SECRETS:
        text = pattern.sub(stars, text)
    return text


def write_details(error: BaseException) -> str:
    """Write the traceback, the command line and the versions into a file of its own in the temporary folder.

    Returns:
        Its path; empty where it cannot be written.
    """
    told = [
        f"score-edge {score_edge.__version__}, Python {sys.version.split()[0]}, {platform.platform()}",
        f"command: {sys.argv[1:]}",
        "".join(traceback.format_exception(error)),
    ]
    try:
        number, path = tempfile.mkstemp(prefix="score-edge-", suffix=".txt")  # readable by this user only
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_secrets("\n".join(told)))
    except OSError:
        return ""
    return path
