"""Cameras that are watched while requests are answered: their state, their alerts, and questions to them."""

import datetime
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from score_edge.errors import ScoreEdgeError, did_you_mean, error_text
from score_edge.runtime.live.events import Answered, Event, Listener, Notice, StepSeen
from score_edge.runtime.live.options import StreamOptions
from score_edge.runtime.live.questions import StreamEndedError
from score_edge.runtime.live.stream import Stream
from score_edge.runtime.pipeline import Pipeline
from score_edge.serve.alerts import Alert, Alerts
from score_edge.serve.engine import GenerationResult, Job
from score_edge.serve.feed import Feed
from score_edge.serve.lasting_source import CONNECTING, LastingSource
from score_edge.serve.pictures import jpeg
from score_edge.serve.refusal import Refused

_LOG: Final = logging.getLogger(__name__)
ALL: Final = "all"
"""The name under which all cameras are asked at once."""
_LEAST_S: Final = 0.2
"""Between two events of one camera."""
_COOL_DOWN_S: Final = 10.0
_ALERT_WIDTH: Final = 640
_SLICE_S: Final = 0.1


@dataclass(slots=True)
class _Watched:
    source: LastingSource
    threshold: float | None
    newest: StepSeen | None = None
    arrived: float = 0.0  # of its frame, by time.monotonic()
    notice: str = ""
    told: float = -_LEAST_S
    alerted: float = -_COOL_DOWN_S


class Live:
    """Watches cameras in threads of its own, from the start until `close`.

    Args:
        pipeline: opened, with a sequence for each camera, its own among them, and one more to ask several at once.
        sources: by name; none watches nothing.
        options: how to watch.
        threshold: kept tokens over their usual number that make an alert.
        question: asked at every alert; empty asks nothing.
        listeners: told every event too.

    Attributes:
        feed: gives the events ``camera``, ``alert`` and ``answer``.

    Raises:
        ScoreEdgeError: options that do not fit the bundle.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sources: Mapping[str, LastingSource],
        options: StreamOptions,
        threshold: float | None,
        question: str,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.feed, self.alerts = Feed(), Alerts()
        grid = pipeline.layout.grid
        self._grid, self._question = (grid.height, grid.width), question
        self._watched = {name: _Watched(source, threshold) for name, source in sources.items()}
        self._stream: Stream | None = None
        self.failed = ""
        if not sources:
            return
        pipeline.turn.slice_s = _SLICE_S
        self._stream = Stream(pipeline, sources, options, [self._on_event, *listeners])
        self._thread = threading.Thread(target=self._run, args=(self._stream,), name="cameras", daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        """Of the cameras."""
        return list(self._watched)

    def close(self) -> None:
        """Stop watching; returns when the step that is being remembered is, so that its model can be freed."""
        if self._stream:
            self._stream.stop()
            self._thread.join()
        self.feed.close()

    def view(self, name: str) -> dict[str, Any]:
        """A camera as docs/serve.md describes it.

        Raises:
            Refused: there is none of that name.
        """
        watched = self._find(name)
        state, newest, now = watched.source.state, watched.newest, time.monotonic()
        view: dict[str, Any] = {
            "name": name,
            "state": _word(watched, self.failed),
            "reason": self.failed or (state if state not in ("paused", CONNECTING) else "") or watched.notice or None,
            "frame_age_s": round(now - watched.arrived, 3) if newest else None,
            "threshold": watched.threshold,
            "grid": list(self._grid),
            "cells": self._grid[0] * self._grid[1],
        }
        if newest is None:
            empty = dict.fromkeys(("steps", "drops", "kept", "encoded", "kv", "kv_limit", "width", "height"), 0)
            return {**view, **empty, "surprise": None, "stages_ms": {}}
        stages = {"prefill" if stage == "append" else stage: took for stage, took in newest.seconds.items()}
        return {
            **view,
            "steps": newest.step + 1,
            "drops": newest.dropped,
            "surprise": round(newest.times_usual, 2),
            "kept": int(newest.keep.sum()),
            "encoded": int(newest.encoded.sum()),
            "kv": newest.used,
            "kv_limit": newest.cells,
            "stages_ms": {stage: round(1e3 * took, 2) for stage, took in stages.items()},
            "width": newest.frame.image.shape[1],
            "height": newest.frame.image.shape[0],
        }

    def picture(self, name: str, painted: bool) -> bytes:
        """JPEG of a camera's newest step.

        Raises:
            Refused: there is no such camera, or nothing was seen yet.
        """
        newest = self._find(name).newest
        if newest is None:
            raise Refused(404, "nothing has been seen yet", "no_picture")
        if not painted:
            return jpeg(newest.frame)
        return jpeg(newest.frame, newest.keep.reshape(self._grid), newest.encoded.reshape(self._grid))

    def pause(self, name: str, paused: bool) -> None:
        """Let a camera rest, or go on."""
        self._find(name).source.pause(paused)
        self._publish(name)

    def set_threshold(self, name: str, threshold: float | None) -> None:
        """From which surprise on there is an alert; None gives none."""
        self._find(name).threshold = threshold
        self._publish(name)

    def check(self, name: str) -> None:
        """Refuse a question that cannot be answered soon.

        Args:
            name: of a camera, or `ALL`.

        Raises:
            Refused: there is no such camera, cameras are watched no longer, or nothing has been seen yet.
        """
        asked = list(self._watched.values()) if name == ALL and self._watched else [self._find(name)]
        if self.failed:
            raise Refused(503, f"the cameras are watched no longer: {self.failed}", "stopped", "model")
        if all(watched.newest is None for watched in asked):
            said = asked[0].source.state
            raise Refused(503, f"nothing has been seen yet{': ' if said else ''}{said}", "no_picture", "model")

    def put(self, job: Job) -> None:
        """Let a question to a camera wait for its turn."""
        name = job.request.camera or ALL
        watched = list(self._watched.values()) if name == ALL else [self._find(name)]
        first = list[float]()

        def on_text(piece: str) -> None:
            job.check()
            if not first:
                first.append(time.monotonic())
                job.frame_age_s = first[0] - min(each.arrived for each in watched if each.newest)
            job.on_text(piece)

        def on_done(done: "Future[Answered]") -> None:
            if not job.done.set_running_or_notify_cancel():
                return  # whoever asked has gone
            try:
                answered = done.result()
                if answered.failure:
                    raise answered.failure
                if answered.ended is None:
                    raise StreamEndedError("the server is stopping")
                job.frame_age_s = answered.age_s + answered.whole_s - answered.waited_s
                job.done.set_result(_result(answered))
            except BaseException as error:
                job.done.set_exception(error)

        try:
            if self._stream is None:
                raise ScoreEdgeError("no camera is watched")
            asked = self._stream.ask(
                job.request.question,
                camera=None if name == ALL else name,
                max_tokens=job.request.max_tokens,
                sampling=job.request.sampling,
                on_text=on_text,
            )
            job.done.add_done_callback(lambda done: done.cancelled() and asked.cancel())
            asked.add_done_callback(on_done)
        except ScoreEdgeError as error:
            job.done.set_exception(error)

    def _find(self, name: str) -> _Watched:
        if name not in self._watched:
            hint = did_you_mean(name, self._watched) if self._watched else "start the server with --source"
            raise Refused(404, f"there is no camera of that name; {hint}", "no_camera")
        return self._watched[name]

    def _run(self, stream: Stream) -> None:
        try:
            stream.run()
        except BaseException as error:
            self.failed = error_text(error)
            _LOG.error("the cameras are watched no longer: %s", self.failed)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StepSeen):
            self._on_step(event, self._watched[event.camera])
        elif isinstance(event, Notice) and event.camera in self._watched:
            watched = self._watched[event.camera]
            watched.notice = "" if watched.source.state else event.text.removeprefix(f"{event.camera}: ")
            self._publish(event.camera)
        elif isinstance(event, Answered) and not event.error:
            answer = {"camera": event.camera or ALL, "time": _now(), "question": event.question, "answer": event.text}
            self.feed.publish("answer", answer)

    def _on_step(self, step: StepSeen, watched: _Watched) -> None:
        now = time.monotonic()
        watched.newest, watched.arrived, watched.notice = step, now - step.late_s, ""
        if now - watched.told >= _LEAST_S:
            watched.told = now
            self._publish(step.camera)
        threshold = watched.threshold
        if threshold is not None and step.times_usual >= threshold and now - watched.alerted >= _COOL_DOWN_S:
            watched.alerted = now
            try:
                self._alert(step)
            except Exception as error:  # or nothing would be told of any camera any more
                _LOG.warning("an alert of %s is lost: %s", step.camera, error_text(error))

    def _alert(self, step: StepSeen) -> None:
        alert = self.alerts.add(step.camera, _now(), step.times_usual, jpeg(step.frame, width=_ALERT_WIDTH))
        self.feed.publish("alert", alert.to_json())
        if self._question and self._stream:
            try:
                answer = self._stream.ask(self._question, "surprise", camera=step.camera)
                answer.add_done_callback(lambda done: self._described(alert, done))
            except ScoreEdgeError as error:
                _LOG.info("an alert is not described: %s", error)

    def _described(self, alert: Alert, done: "Future[Answered]") -> None:
        if not done.cancelled() and not done.exception() and not done.result().error:
            alert.text = done.result().text
            self.feed.publish("alert", alert.to_json())

    def _publish(self, name: str) -> None:
        self.feed.publish("camera", self.view(name))


def _word(watched: _Watched, failed: str) -> str:
    state = watched.source.state
    if state == "paused" or (state == CONNECTING and not failed):
        return state
    return "lost" if state or failed else "live" if watched.newest else CONNECTING


def _result(answered: Answered) -> GenerationResult:
    assert answered.ended is not None  # for mypy
    working = answered.whole_s - answered.waited_s
    return GenerationResult(
        text=answered.text,
        ended=answered.ended,
        prompt_tokens=answered.ended.prompt,
        cached_tokens=answered.cached,
        kept=0,
        total=0,
        ttft_s=answered.ttft_s,
        seconds={"prefill": answered.ttft_s, "generate": working - answered.ttft_s},
    )


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
