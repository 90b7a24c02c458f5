"""What a person sees of a stream: kept tokens, rates, memory, stage times, the last answers."""

import contextlib
import os
import time
from collections import deque
from dataclasses import replace

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from score_edge.cli.event_lines import answered_line, json_lines, plain_lines
from score_edge.cli.terminal import print_json
from score_edge.cli.typed_questions import ask_lines, ask_typed
from score_edge.runtime.live.events import AnswerBegan, Answered, AnswerPiece, Event, Notice, StepSeen
from score_edge.runtime.live.stream import Stream
from score_edge.runtime.runs_on import RunsOn

_STAGES = ("preprocess", "encode", "select", "append")
_FULL, _EMPTY = "█", "·"
_NOTHING = np.zeros((0, 0, 3), np.uint8)  # in place of pictures, which the panel does not show
_FRAME_ROWS, _FRAME_COLUMNS = 2, 4
_REFRESH = 8  # times a second


class _View:
    """The figures of one camera, from its newest steps."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, StepSeen]] = deque(maxlen=64)
        self.kept = self.total = 0

    def take(self, event: StepSeen) -> None:
        self._recent.append((time.monotonic(), replace(event, frame=replace(event.frame, image=_NOTHING))))
        self.kept += int(event.keep.sum())
        self.total += event.keep.size

    @property
    def at(self) -> float:
        return self._recent[-1][0]

    @property
    def newest(self) -> StepSeen:
        return self._recent[-1][1]

    @property
    def encoded(self) -> float:
        """Share of cells."""
        recent = list(self._recent)
        return float(sum(event.encoded.mean() for _, event in recent)) / len(recent)

    def rates(self) -> str:
        recent, newest = list(self._recent), self.newest
        rate = (len(recent) - 1) / max(recent[-1][0] - recent[0][0], 1e-3)
        return (
            f"step {newest.step}, {rate:.1f} steps/s, {newest.frames} frames, {newest.dropped} dropped, "
            f"{1e3 * newest.late_s:.0f} ms behind"
        )

    def memory(self) -> str:
        newest = self.newest
        if newest.held and not newest.used:
            return f"{newest.held} steps in full, chosen when you ask"
        return f"{_bar(newest.used / newest.cells)} {newest.used} of {newest.cells} cells, {newest.held} steps"

    def times(self) -> str:
        recent = list(self._recent)
        stages = {stage: [e.seconds[stage] for _, e in recent if stage in e.seconds] for stage in _STAGES}
        return "  ".join(f"{stage} {1e3 * sum(v) / len(v):.1f}" for stage, v in stages.items() if v)


class LivePanel:
    """What a person sees: the kept tokens of the newest step, rates, memory, stage times, the last answers.

    Args:
        stream: to read its options from.
        title: what is watched.
        width: of the token grid.
        runs_on: what encoder and language model run on.
    """

    def __init__(self, stream: Stream, title: str, width: int, runs_on: RunsOn) -> None:
        self._stream, self._title, self._width, self._runs_on = stream, title, width, runs_on
        self._views: dict[str, _View] = {}
        self._lines: deque[str] = deque(maxlen=6)
        self._said = ""  # of the answer being given
        self.typed = ""

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        if isinstance(event, StepSeen):
            self._views.setdefault(event.camera, _View()).take(event)
        elif isinstance(event, AnswerBegan):
            self._said = f"{event.camera}> {event.question}  " if event.camera else f"{event.question}  "
        elif isinstance(event, AnswerPiece):
            self._said += event.text
        elif isinstance(event, Answered):
            self._said = ""
            self._lines.append(f"{answered_line(event)}  [first word {event.ttft_s * 1e3:.0f} ms]")
        else:
            self._lines.append(event.text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What does not fit is left out: older answers first, then the last figures; never what is being typed."""
        room, inner = options.size.height - _FRAME_ROWS, options.update(width=options.max_width - _FRAME_COLUMNS)

        def rows(part: RenderableType) -> int:
            return len(console.render_lines(part, inner))

        figures, below = self._figures(), self._below()
        while len(below) > 2 and rows(Group(figures, *below)) > room:
            del below[0]
        cropped = _Top(figures, max(0, room - rows(Group(*below))))
        caption = "type a question, Enter asks; Ctrl-C stops the answer, then the program"
        title = Text(f"score-edge stream {self._title}")
        yield Panel(Group(cropped, *below), title=title, subtitle=caption)

    def _below(self) -> list[RenderableType]:
        """The last answers, and the line that is typed into."""
        lines = [Text(line, style="bold" if line.startswith("[") else "yellow") for line in list(self._lines)]
        if self._said:
            lines.append(Text(f"… {self._said}", style="bold green"))
        return [*lines, Text.assemble(("ask> ", "bold cyan"), self.typed, ("▏", "cyan"))]

    def _figures(self) -> RenderableType:
        views = {name: view for name, view in list(self._views.items()) if name in self._stream.cameras}
        if not views:
            return Text("waiting for the first frames", style="dim")
        perception = self._stream.perception
        kept, total = (sum(counted) for counted in zip(*((v.kept, v.total) for v in views.values()), strict=True))
        asked = "; score-query when you ask" if self._stream.options.by_question else ""
        budget = (
            f"{kept} of {total} visual tokens, {kept / max(1, total):.1%} (target {perception.retention:.0%}, "
            f"{perception.selector}{asked})"
        )
        if len(views) == 1:
            (view,) = views.values()
            rows = {
                "time": f"{view.newest.frame.time_s:.1f} s, {view.rates()}",
                "kept": f"{budget}, encoded {view.encoded:.0%}",
                "memory": view.memory(),
                "ms": view.times(),
                "runs on": str(self._runs_on),
            }
        else:
            rows = {
                name: f"{view.rates()}, kept {view.kept / view.total:.1%}, encoded {view.encoded:.0%}\n"
                f"{view.memory()}\nms  {view.times()}"
                for name, view in views.items()
            }
            rows |= {"kept": budget, "runs on": str(self._runs_on)}
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(Text(name, style="cyan"), Text(value))
        both = Table.grid(padding=(0, 3))
        both.add_row(self._tokens(max(views.values(), key=lambda view: view.at).newest), table)
        return both

    def _tokens(self, event: StepSeen) -> Text:
        """The grid of the newest step, kept tokens bright; very large ones are thinned."""
        grid = event.keep.reshape(-1, self._width)
        every = max(1, -(-grid.shape[0] // 12))
        text = Text(f"{event.camera}\n" if event.camera else "", style="cyan")
        for row in grid[::every]:
            for kept in row[::every]:
                text.append((_FULL if kept else _EMPTY) * 2, style="bold magenta" if kept else "dim")
            text.append("\n")
        text.rstrip()
        return text


class _Top:
    """The first rows of something."""

    def __init__(self, shown: RenderableType, rows: int) -> None:
        self._shown, self._rows = shown, rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self._shown, options)[: self._rows]:
            yield from line
            yield Segment.line()


def _bar(share: float, width: int = 20) -> str:
    full = round(min(1.0, share) * width)
    return "▕" + "█" * full + "░" * (width - full) + "▏"


def watch(
    stream: Stream,
    title: str,
    width: int,
    console: Console,
    *,
    as_json: bool,
    runs_on: RunsOn,
    takes_questions: bool,
) -> None:
    """Run a stream for whoever started the command: a panel for a terminal, else lines; input is questions.

    Args:
        stream: ready to run.
        title: what is watched, without secrets.
        width: of the token grid.
        console: where the panel goes.
        as_json: JSON lines, whatever stdout is.
        runs_on: what encoder and language model run on.
        takes_questions: standard input brings them, and not frames.
    """
    if as_json or not console.is_terminal or console.is_dumb_terminal:  # which cannot redraw
        write, lost = json_lines if as_json else plain_lines, list[OSError]()

        def show(event: Event) -> None:
            try:
                write(event)
            except OSError as error:  # nobody reads any more, or there is no room
                lost.append(error)
                stream.stop()

        if as_json:
            print_json({"event": "runs_on", **runs_on.to_json()})
        else:
            show(Notice(str(runs_on)))
        stream.listen(show)
        with ask_lines(stream, lambda text: show(Notice(text))) if takes_questions else contextlib.nullcontext():
            stream.run()
        if lost:
            raise lost[0]
        return
    panel = LivePanel(stream, title, width, runs_on)
    stream.listen(panel)
    typed = ask_typed(stream, panel, lambda text: panel(Notice(text)))
    with (
        Live(panel, console=console, refresh_per_second=_REFRESH),  # the last state stays on the screen
        typed if takes_questions and os.isatty(0) else contextlib.nullcontext(),
    ):
        stream.run()
