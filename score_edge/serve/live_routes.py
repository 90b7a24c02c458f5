"""The addresses under /live: state, events and pictures of cameras."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import fastapi
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from score_edge.serve.body import read_body
from score_edge.serve.feed import FeedEvent, Subscription
from score_edge.serve.live import Live
from score_edge.serve.refusal import Refused
from score_edge.serve.replies import refuse

_BODY_LIMIT = 1 << 16
_LISTENERS = 32
_LOOK_S, _HEARTBEAT_S = 0.5, 15.0
_NO_STORE = {"Cache-Control": "no-store"}


class Threshold(BaseModel):
    """From which surprise on a camera makes an alert; null makes none."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    surprise: float | None = Field(gt=0, le=1e6)


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Threshold.model_json_schema()}}}}


class LiveRoutes:
    """Adds them to an application.

    Args:
        routes: of the server.
        live: the cameras.
        model: that answers, by name.
        stopping: whether the server is.
    """

    def __init__(self, routes: fastapi.FastAPI, live: Live, model: str, stopping: Callable[[], bool]) -> None:
        self._live, self._model, self._stopping, self._listening = live, model, stopping, 0
        routes.get("/live")(self.cameras)
        routes.get("/live/events", response_class=StreamingResponse)(self.events)
        routes.get("/live/alerts")(self.alerts)
        routes.get("/live/{name}/picture.jpg", response_class=Response)(self.picture)  # also of one called alerts
        routes.get("/live/alerts/{key}.jpg", response_class=Response)(self.alert_picture)
        routes.post("/live/{name}/pause")(self.pause)
        routes.post("/live/{name}/resume")(self.resume)
        routes.put("/live/{name}/threshold", openapi_extra=_BODY)(self.threshold)
        routes.add_exception_handler(Refused, _refused)

    async def cameras(self) -> dict[str, Any]:
        """Every camera as it is now."""
        return {"model": self._model, "cameras": [self._live.view(name) for name in self._live.names]}

    async def events(self) -> Response:
        """Server-sent events: camera, alert, answer. They begin with every camera as it is now."""
        if self._listening >= _LISTENERS:
            raise Refused(429, f"{_LISTENERS} already listen", "too_many_listeners")
        return StreamingResponse(self._lines(), media_type="text/event-stream", headers=_NO_STORE)

    async def _lines(self) -> AsyncIterator[str]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(changed.set)

        self._listening += 1
        try:
            with self._live.feed.subscribe(wake) as subscription:
                for name in self._live.names:
                    yield _line(FeedEvent("camera", self._live.view(name)))
                silent_s = 0.0
                while not (subscription.closed or self._stopping()):
                    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                        await asyncio.wait_for(changed.wait(), _LOOK_S)
                    changed.clear()
                    silent_s += _LOOK_S
                    for event in _waiting(subscription):
                        silent_s = 0.0
                        yield _line(event)
                    if silent_s >= _HEARTBEAT_S:
                        silent_s = 0.0
                        yield ":\n\n"
        finally:
            self._listening -= 1

    async def picture(self, name: str, paint: bool = False) -> Response:
        """The newest step of a camera as JPEG; with paint=1 kept tokens in colour and encoded cells outlined."""
        data = await asyncio.to_thread(self._live.picture, name, paint)
        return Response(data, media_type="image/jpeg", headers=_NO_STORE)

    async def alerts(self) -> dict[str, Any]:
        """The newest hundred, newest first."""
        return {"alerts": [alert.to_json() for alert in self._live.alerts.newest_first()]}

    async def alert_picture(self, key: str) -> Response:
        """What was seen then, as JPEG."""
        alert = self._live.alerts.get(key)
        if alert is None:
            raise Refused(404, "there is no such alert, or no more", "no_alert")
        return Response(alert.picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    async def pause(self, name: str) -> dict[str, Any]:
        """Let a camera go."""
        return await self._set(name, paused=True)

    async def resume(self, name: str) -> dict[str, Any]:
        """Open it again."""
        return await self._set(name, paused=False)

    async def _set(self, name: str, *, paused: bool) -> dict[str, Any]:
        await asyncio.to_thread(self._live.pause, name, paused)
        return self._live.view(name)

    async def threshold(self, name: str, request: Request) -> dict[str, Any]:
        """From which surprise on there is an alert, until the server stops."""
        try:
            wanted = Threshold.model_validate_json(await read_body(request, _BODY_LIMIT))
        except ValidationError:
            message = 'the body must be {"surprise": 3.0}, above 0, or {"surprise": null}'
            raise Refused(400, message, "invalid_request", "surprise") from None
        self._live.set_threshold(name, wanted.surprise)
        return self._live.view(name)


def _waiting(subscription: Subscription) -> list[FeedEvent]:
    found = list[FeedEvent]()
    while event := subscription.get(0):
        found.append(event)
    return found


def _line(event: FeedEvent) -> str:
    return f"event: {event.kind}\ndata: {json.dumps(event.data)}\n\n"


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refuse(error)
