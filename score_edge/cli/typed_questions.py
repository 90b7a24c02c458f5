"""What a person types while a stream runs: questions, line by line or key by key, and Ctrl-C."""

import codecs
import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from score_edge.cli.camera_names import named_question
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.live.stream import Stream


class Typed(Protocol):
    """What shows a question while it is being typed."""

    typed: str


@contextlib.contextmanager
def signals(stream: Stream) -> Iterator[None]:
    """Ctrl-C stops the answer first and the stream second; SIGTERM and a closed terminal stop the stream."""

    def interrupt(*_: object) -> None:
        if not stream.stop_answer():
            stream.stop()

    def terminate(*_: object) -> None:
        stream.stop()

    handlers = {signal.SIGINT: interrupt, signal.SIGTERM: terminate}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = terminate
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def put(stream: Stream, question: str, refuse: Callable[[str], None]) -> None:
    """Ask what a person typed, behind a camera's name or not; what cannot be asked is refused in words."""
    camera, question = named_question(question, stream.cameras)
    if question:
        try:
            stream.ask(question, camera=camera)
        except ScoreEdgeError as error:
            refuse(f"not asked: {error.message}")


class TextKeys:
    """Tells the text of what a keyboard sends from the escape sequences of its other keys, however they are cut."""

    def __init__(self) -> None:
        self._inside = ""  # an escape sequence whose end has not come yet

    def of(self, keys: str) -> str:
        """The characters that are text."""
        text = ""
        for key in keys:
            if key == "\x1b":
                self._inside = key
            elif not self._inside:
                text += key
            elif self._inside == "\x1b" and key in "[O":
                self._inside += key
            elif self._inside[-1] == "[" and not "@" <= key <= "~":  # parameters, up to the letter that ends them
                continue
            else:
                self._inside = ""
        return text


@contextlib.contextmanager
def keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Tell every character that comes on standard input, from a thread, while the block runs.

    Arrow and function keys are left out; the end of the input ends its last line.
    """
    done = threading.Event()
    text = TextKeys()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        # Not through sys.stdin: a thread that waits in it keeps the process from ending cleanly.
        while not done.is_set():
            if not _is_ours():
                done.wait(0.1)
            elif select.select([0], [], [], 0.1)[0]:
                data = os.read(0, 4096)
                for key in text.of(decoder.decode(data, final=not data)):
                    pressed(key)
                if not data:
                    pressed("\n")
                    return

    reader = threading.Thread(target=read, name="keys", daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join(0.5)


def _is_ours() -> bool:
    """Whether what is typed is for us; a terminal stops a process in the background that reads."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # it is no terminal, or not ours
        return True


@contextlib.contextmanager
def ask_lines(stream: Stream, refuse: Callable[[str], None]) -> Iterator[None]:
    """Every line on standard input is a question."""
    line: list[str] = []

    def pressed(key: str) -> None:
        if key == "\n":
            put(stream, "".join(line), refuse)
            line.clear()
        else:
            line.append(key)

    with keys(pressed):
        yield


@contextlib.contextmanager
def ask_typed(stream: Stream, panel: Typed, refuse: Callable[[str], None]) -> Iterator[None]:
    """Questions typed into the panel, key by key, while it is being redrawn."""
    import termios
    import tty

    def pressed(key: str) -> None:
        if key in "\r\n":
            put(stream, panel.typed, refuse)
            panel.typed = ""
        elif key in "\x7f\x08":
            panel.typed = panel.typed[:-1]
        elif key.isprintable():
            panel.typed += key

    before = termios.tcgetattr(0)
    tty.setcbreak(0)
    try:
        with keys(pressed):
            yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
