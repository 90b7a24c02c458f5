"""The one kind of error a user can cause: a message that says what is wrong and a hint that says what to do."""

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

from score_edge.install import install_command


class ScoreEdgeError(Exception):
    """Something the user can put right. The command line prints it without a traceback and exits with 1.

    Args:
        message: what is wrong and where, one line.
        hint: what to do next, one line; empty when there is nothing sensible to suggest.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


def require(module: str, extra: str = "") -> ModuleType:
    """Import an optional dependency where it is used.

    Args:
        module: dotted name to import, for example ``"gguf"``.
        extra: the extra of this package that brings it, for example ``"export"``; empty for what runs a model: OpenCV,
            ONNX Runtime and llama.cpp, which come differently to a PC and to a Jetson.

    Raises:
        ScoreEdgeError: the module is not installed, or what it needs itself is not; the hint is the command for this
            kind of machine.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name, package = (error.name or "?").split(".")[0], module.split(".")[0]
        what = f"{module} is not installed, and this needs it"
        if name != package:
            what = f"{package} cannot be imported: {name}, which it needs, is not installed"
        raise ScoreEdgeError(what, install_command(module, extra)) from error
    except Exception as error:  # a library of the system is missing, or was built for another version of something
        reason = next(iter(str(error).splitlines()), "")
        raise ScoreEdgeError(
            f"{module} is installed, but cannot be imported: {type(error).__name__}: {reason}",
            "install what it misses, or the package again; `score-edge doctor` tells which is in use",
        ) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is not known: the nearest one, and all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    listed = f"known: {', '.join(names)}"
    return f"did you mean {nearest[0]}? {listed}" if nearest else listed


def error_text(error: BaseException) -> str:
    """An error for people, in one line; one that nobody foresaw with its name."""
    return error.message if isinstance(error, ScoreEdgeError) else f"{type(error).__name__}: {error}"
