"""The command line: parse, call one public function, print. Only this folder knows typer."""

import errno
import logging
import os
import signal
import sys
from typing import Annotated

try:
    import typer

    import score_edge
    from score_edge.cli import answering, building, making, measuring, serving, training
    from score_edge.cli.crash import without_secrets, write_details
    from score_edge.cli.terminal import drop_output, prepare_streams, say
    from score_edge.errors import ScoreEdgeError
    from score_edge.runtime.sources.background import someone_reads
except KeyboardInterrupt:  # these take a second on a board
    sys.exit(130)

_INTERRUPTED, _TERMINATED = 130, 143
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    help="A video vision-language model on a small board, fast, because it reads only the visual tokens that matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for group in (answering, serving, measuring, making, building):
    app.add_typer(group.app)
app.add_typer(training.app, name="train", help="Train the models that score-edge ships.", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(score_edge.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: whatever happens is a message on stderr and an exit code, never a traceback."""
    prepare_streams()
    logging.basicConfig(format="%(message)s", handlers=[_Warnings(logging.WARNING)])
    terminated = _as_interrupt(signal.SIGTERM)
    try:
        code = _run()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if code == _INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would come while Python ends
            code = _TERMINATED if terminated else code
        if someone_reads():
            # A thread is inside OpenCV or an encoder: the interpreter would end under it, and abort.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    except BrokenPipeError:  # whoever read our output has gone
        drop_output()
        code = 1
    sys.exit(code)


def _as_interrupt(number: int) -> list[int]:
    """Let a signal end everything as Ctrl-C does: worker processes stop, temporary files go. A second one kills.

    Returns:
        A list that has the number once the signal came.
    """
    came: list[int] = []

    def interrupt(*_: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(number, interrupt)
    return came


def _run() -> int:
    try:
        code = _exit_code()
        sys.stdout.flush()
        return code
    except ScoreEdgeError as error:
        return _INTERRUPTED if _is_interrupted(error) else _fail(error.message, error.hint)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            drop_output()
            return _fail(f"the output cannot be written: {error.strerror}", "make room, or send it elsewhere")
        return _unforeseen(error)
    except Exception as error:
        return _INTERRUPTED if _is_interrupted(error) else _unforeseen(error)


def _is_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: modules in C++ turn it into an ImportError while they begin."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _exit_code() -> int:
    try:
        app()
    except SystemExit as done:  # how typer ends every command, also one that did what it should
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _unforeseen(error: Exception) -> int:
    details = write_details(error)
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        what = f"{error.filename}: {error.strerror}"
    hint = f"if this is no fault of your files, please report it with {details}" if details else "please report it"
    return _fail(f"something unforeseen went wrong: {without_secrets(what.splitlines()[0])}", hint)


def _fail(message: str, hint: str) -> int:
    say("error", "bold red", message)
    if hint:
        say("hint", "bold", hint)
    return 1


class _Warnings(logging.Handler):
    """On stderr; what is wrong with a clip once, however often in a row the clip is read."""

    _of_clip = ""

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if record.name == "score_edge.runtime.sources.open_source":
            if said == self._of_clip:
                return
            self._of_clip = said
        say("warning", "yellow", said)
