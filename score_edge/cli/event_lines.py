"""A stream's events as lines: plain for people, JSON for programs."""

import dataclasses
import sys
from typing import Any, TextIO

from score_edge.cli.terminal import json_line, plain
from score_edge.runtime.live.events import AnswerBegan, Answered, AnswerPiece, Event, Notice, StepSeen


def event_json(event: Event) -> dict[str, Any] | None:
    """One event as plain JSON values; None for what JSON lines leave out (pieces of answers)."""
    if isinstance(event, AnswerBegan | AnswerPiece):
        return None
    if isinstance(event, StepSeen):
        values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        frame, keep, encoded = (values.pop(name) for name in ("frame", "keep", "encoded"))
        values["encoded"] = [int(i) for i in encoded.nonzero()[0]]
        kept = [int(i) for i in keep.nonzero()[0]]
        return {"event": "step", "time_s": round(frame.time_s, 3), "kept": kept, "of": len(keep), **values}
    if isinstance(event, Notice):
        return {"event": "notice", **dataclasses.asdict(event)}
    values = dataclasses.asdict(dataclasses.replace(event, failure=None))
    del values["failure"]  # `error` tells it
    return {"event": "answer", **values}


def json_lines(event: Event) -> None:
    """Print an event as one line of JSON."""
    values = event_json(event)
    if values is not None:
        _say(json_line(values), sys.stdout)


def plain_lines(event: Event) -> None:
    """Print answers to stdout and notices to stderr."""
    if isinstance(event, Notice):
        _say(plain(event.text), sys.stderr)
    elif isinstance(event, Answered):
        _say(plain(answered_line(event)), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    stream.write(f"{line}\n")  # in one piece: more than one thread talks
    stream.flush()


def answered_line(answered: Answered) -> str:
    """When, what was asked, the answer, and what to know before trusting it."""
    doubts = [f"no answer: {answered.error}"] if answered.error else []
    doubts += ["stopped"] if answered.stopped else []
    doubts += [answered.source] if answered.source else []
    doubts += [f"newest frame {answered.age_s:.0f} s old"] if answered.age_s > 3 else []
    doubt = f"  ({'; '.join(doubts)})" if doubts else ""
    whom = f"{answered.camera}> " if answered.camera else ""
    return f"[{answered.time_s:8.1f} s] {whom}{answered.question}  {answered.text}{doubt}"
