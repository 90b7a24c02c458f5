"""The command line: parse, call one public function, print. Only this folder knows typer."""

import io
import logging
import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

import score_edge
from score_edge.cli import answering, building, making, measuring, training
from score_edge.cli.options import err
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.background import someone_reads

app = typer.Typer(
    help="A video vision-language model on a small board, fast, because it reads only the visual tokens that matter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
for group in (answering, measuring, making, building):
    app.add_typer(group.app)
app.add_typer(training.app, name="train", help="Train the models that score-edge ships.", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(score_edge.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: a user's error is a message and a hint on stderr and exit code 1, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale cannot write must not end the program
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", handlers=[_Warnings(logging.WARNING)])
    code = _run()
    if someone_reads():
        # It waits for the network inside OpenCV: the interpreter would end under it, and abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    try:
        app()
    except SystemExit as finished:
        return finished.code if isinstance(finished.code, int) else int(bool(finished.code))
    except ScoreEdgeError as error:
        err.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True, highlight=False)
        if error.hint:
            err.print(f"[bold]hint:[/] {escape(error.hint)}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"[yellow]warning:[/] {escape(record.getMessage())}", soft_wrap=True, highlight=False)
