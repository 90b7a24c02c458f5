"""Listeners of a stream for people and programs: a live panel, plain lines, JSON lines; and typed questions."""

import codecs
import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.events import AnswerBegan, Answered, AnswerPiece, Event, Notice, StepSeen
from score_edge.runtime.stream import Stream

OWN_STAGES = ("preprocess", "gate", "encode", "select", "append")
_FULL, _EMPTY = "█", "·"
_REFRESH = 8  # times a second


def event_json(event: Event) -> dict[str, Any] | None:
    """One event as plain JSON values; None for what JSON lines leave out (pieces of answers)."""
    if isinstance(event, AnswerBegan | AnswerPiece):
        return None
    if isinstance(event, StepSeen):
        values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        frame, keep = values.pop("frame"), values.pop("keep")
        kept = [int(i) for i in keep.nonzero()[0]]
        return {"event": "step", "time_s": round(frame.time_s, 3), "kept": kept, "of": len(keep), **values}
    name = "answer" if isinstance(event, Answered) else "notice"
    return {"event": name, **dataclasses.asdict(event)}


def json_lines(event: Event) -> None:
    """Print an event as one line of JSON."""
    values = event_json(event)
    if values is not None:
        _say(json.dumps(values, ensure_ascii=False), sys.stdout)


def plain_lines(event: Event) -> None:
    """Print answers to stdout and notices to stderr."""
    if isinstance(event, Notice):
        _say(event.text, sys.stderr)
    elif isinstance(event, Answered):
        _say(answer_line(event), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    stream.write(f"{line}\n")  # in one piece: more than one thread talks
    stream.flush()


def answer_line(answered: Answered) -> str:
    """When, what was asked, the answer, and what to know before trusting it."""
    doubts = [f"no answer: {answered.error}"] if answered.error else []
    doubts += ["stopped"] if answered.stopped else []
    doubts += [answered.source] if answered.source else []
    doubts += [f"newest frame {answered.age_s:.0f} s old"] if answered.age_s > 3 else []
    doubt = f"  ({'; '.join(doubts)})" if doubts else ""
    return f"[{answered.time_s:8.1f} s] {answered.question}  {answered.text}{doubt}"


class LivePanel:
    """What a person sees: the kept tokens of the newest step, rates, memory, stage times, the last answers.

    Args:
        stream: to read its options from.
        title: what is watched.
        width: of the token grid.
    """

    def __init__(self, stream: Stream, title: str, width: int) -> None:
        self._stream, self._title, self._width = stream, title, width
        self._recent: deque[tuple[float, StepSeen]] = deque(maxlen=64)
        self._lines: deque[str] = deque(maxlen=6)
        self._said = ""  # of the answer being given
        self._kept = self._total = 0
        self.typed = ""

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, StepSeen):
            self._recent.append((time.monotonic(), event))
            self._kept += int(event.keep.sum())
            self._total += event.keep.size
        elif isinstance(event, AnswerBegan):
            self._said = f"{event.question}  "
        elif isinstance(event, AnswerPiece):
            self._said += event.text
        elif isinstance(event, Answered):
            self._said = ""
            self._lines.append(f"{answer_line(event)}  [first word {event.ttft_s * 1e3:.0f} ms]")
        else:
            self._lines.append(event.text)

    def __rich__(self) -> RenderableType:
        lines = [Text(line, style="bold" if line.startswith("[") else "yellow") for line in list(self._lines)]
        if self._said:
            lines.append(Text(f"… {self._said}", style="bold green"))
        prompt = Text.assemble(("ask> ", "bold cyan"), self.typed, ("▏", "cyan"))
        parts: list[RenderableType] = [self._figures(), *lines, prompt]
        caption = "type a question, Enter asks; Ctrl-C stops the answer, then the program"
        return Panel(Group(*parts), title=f"score-edge stream {self._title}", subtitle=caption)

    def _figures(self) -> RenderableType:
        recent = list(self._recent)
        if not recent:
            return Text("waiting for the first frames", style="dim")
        newest = recent[-1][1]
        seconds = max(recent[-1][0] - recent[0][0], 1e-3)
        rate = (len(recent) - 1) / seconds
        share = self._kept / max(1, self._total)
        skipped = sum(not event.encoded for _, event in recent) / len(recent)
        stages = {stage: [e.seconds[stage] for _, e in recent if stage in e.seconds] for stage in OWN_STAGES}
        times = "  ".join(f"{s} {1e3 * sum(v) / len(v):.1f}" for s, v in stages.items() if v)
        rows = {
            "time": f"{newest.frame.time_s:.1f} s, step {newest.step}, {rate:.1f} steps/s, "
            f"{newest.frames} frames, {newest.dropped} dropped, {1e3 * newest.late_s:.0f} ms behind",
            "kept": f"{self._kept} of {self._total} visual tokens, {share:.1%} (target "
            f"{self._stream.vision.retention:.0%}, {self._stream.vision.selector}), encoder skipped {skipped:.0%}",
            "memory": f"{_bar(newest.used / newest.cells)} {newest.used} of {newest.cells} cells, {newest.held} steps",
            "ms": times,
        }
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name, style="cyan"), Text(value))
        both = Table.grid(padding=(0, 3))
        both.add_row(self._tokens(newest), table)
        return both

    def _tokens(self, event: StepSeen) -> Text:
        """The grid of the newest step, kept tokens bright; very large ones are thinned."""
        grid = event.keep.reshape(-1, self._width)
        every = max(1, -(-grid.shape[0] // 12))
        text = Text()
        for row in grid[::every]:
            for kept in row[::every]:
                text.append((_FULL if kept else _EMPTY) * 2, style="bold magenta" if kept else "dim")
            text.append("\n")
        text.rstrip()
        return text


def _bar(share: float, width: int = 20) -> str:
    full = round(min(1.0, share) * width)
    return "▕" + "█" * full + "░" * (width - full) + "▏"


@contextlib.contextmanager
def showing(panel: LivePanel, console: Console) -> Iterator[None]:
    """Show the panel while the block runs; the last state stays on the screen."""
    with Live(panel, console=console, refresh_per_second=_REFRESH, transient=False):
        yield


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
    """Ask what a person typed; what cannot be asked is refused in words."""
    if question := question.strip():
        try:
            stream.ask(question)
        except ScoreEdgeError as error:
            refuse(f"not asked: {error.message}")


@contextlib.contextmanager
def keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Tell every character that comes on standard input, from a thread, while the block runs."""
    done = threading.Event()
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read() -> None:
        # Not through sys.stdin: a thread that waits in it keeps the process from ending cleanly.
        while not done.is_set():
            if select.select([0], [], [], 0.1)[0]:
                data = os.read(0, 4096)
                if not data:
                    return
                for key in decoder.decode(data):
                    pressed(key)

    reader = threading.Thread(target=read, name="keys", daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join(0.5)


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
def ask_typed(stream: Stream, panel: LivePanel, refuse: Callable[[str], None]) -> Iterator[None]:
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


def watch(stream: Stream, title: str, width: int, console: Console, *, as_json: bool) -> None:
    """Run a stream for whoever started the command: a panel for a terminal, else lines; input is questions.

    Args:
        stream: ready to run.
        title: what is watched; ``-`` when standard input brings frames and so no questions.
        width: of the token grid.
        console: where the panel goes.
        as_json: JSON lines, whatever stdout is.
    """
    takes_questions = not title.startswith("-")
    if as_json or not console.is_terminal:
        show = json_lines if as_json else plain_lines
        stream.listen(show)
        with ask_lines(stream, lambda text: show(Notice(text))) if takes_questions else contextlib.nullcontext():
            stream.run()
        return
    panel = LivePanel(stream, title, width)
    stream.listen(panel)
    typed = ask_typed(stream, panel, lambda text: panel(Notice(text)))
    with showing(panel, console), typed if takes_questions and os.isatty(0) else contextlib.nullcontext():
        stream.run()
