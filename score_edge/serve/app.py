"""The HTTP side: routes, and the way of a chat request from its first byte to the last of its answer."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import fastapi
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from score_edge import __version__
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import ContextFullError
from score_edge.runtime.live.questions import QueueFullError, StreamEndedError
from score_edge.serve.body import read_body
from score_edge.serve.conversation import read_conversation
from score_edge.serve.engine import Engine, GenerationRequest, GoneError, Job, LateError
from score_edge.serve.guard import Guard
from score_edge.serve.live import ALL, Live
from score_edge.serve.live_routes import LiveRoutes
from score_edge.serve.metrics import Metrics
from score_edge.serve.options import ServeOptions
from score_edge.serve.page_files import add_page
from score_edge.serve.refusal import Refused
from score_edge.serve.replies import DONE, Writer, refuse
from score_edge.serve.schema import ChatRequest

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.2
_SCHEMA = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_PARTS = _SCHEMA.pop("$defs")
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


class Server:
    """The routes over one engine and its cameras.

    Args:
        engine, live: opened; closed by whoever opened them.
        metrics: that count what happens.
        options: limits, key.

    Attributes:
        stopping: set when it is, so that those who listen without end are let go.
    """

    def __init__(self, engine: Engine, live: Live, metrics: Metrics, options: ServeOptions) -> None:
        self._engine, self.live, self._options = engine, live, options
        self._manifest = engine.pipeline.bundle.manifest
        self.pipeline = engine.pipeline
        self.metrics = metrics
        self.stopping = False
        name, cameras = self._manifest.name, [*live.names, ALL] if live.names else []
        self._names: dict[str, str | None] = {name: None, **{f"{name}@{camera}": camera for camera in cameras}}
        self._inside = 0
        self._created = int(time.time())
        self._routes = fastapi.FastAPI(title="score-edge", version=__version__, docs_url=None, redoc_url=None)
        self._routes.post("/v1/chat/completions", openapi_extra=_BODY)(self.chat)
        self._routes.get("/v1/models")(self.models)
        self._routes.get("/v1/models/{name:path}")(self.model)
        self._routes.get("/props")(self.props)
        self._routes.get("/health")(self.health)
        self._routes.head("/health", include_in_schema=False)(self.health)
        self._routes.get("/metrics")(self.metrics_text)
        LiveRoutes(self._routes, live, self._manifest.name, lambda: self.stopping)
        add_page(self._routes)
        self._routes.add_exception_handler(HTTPException, _not_found)
        self._routes.add_exception_handler(RequestValidationError, _not_valid)
        components = self._routes.openapi().setdefault("components", {}).setdefault("schemas", {})
        components.update(_PARTS)
        self.app = Guard(self._routes, options)

    async def models(self) -> dict[str, Any]:
        """The one model, and each camera behind it, as OpenAI's, vLLM's and llama.cpp's clients look for them."""
        entries = [self._entry(name) for name in self._names]
        return {"object": "list", "data": entries, "models": [{**entry, "name": entry["id"]} for entry in entries]}

    async def model(self, name: str) -> dict[str, Any]:
        """One of them."""
        self._camera_of(name)
        return self._entry(name)

    def _camera_of(self, name: str) -> str | None:
        """The camera behind a model's name; None where it is the model itself."""
        if name not in self._names:
            known = ", ".join(self._names)
            raise Refused(404, f"there is no model of that name here, only {known}", "model_not_found", "model")
        return self._names[name]

    def _entry(self, name: str) -> dict[str, Any]:
        takes = ["text"] if self._names[name] else ["text", "image", "video"]
        context = self.pipeline.model.capabilities.context
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "score-edge",
            "aliases": [],
            "max_model_len": context,
            "architecture": {"input_modalities": takes, "output_modalities": ["text"]},
            "meta": {"n_ctx": context},
        }

    async def props(self) -> dict[str, Any]:
        """What llama.cpp's clients ask for before they send pictures."""
        return {
            "default_generation_settings": {"n_ctx": self.pipeline.model.capabilities.context},
            "total_slots": 1,
            "model_alias": self._manifest.name,
            "modalities": {"vision": True, "audio": False},
            "media_marker": "<__media__>",
            "chat_template": "",
            "chat_template_caps": {"supports_tools": False},
        }

    async def health(self) -> Response:
        """That the server runs; 503 where its cameras are watched no longer."""
        failed = self.live.failed
        return JSONResponse({"status": failed or "ok"}, 503 if failed else 200)

    async def metrics_text(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def chat(self, request: Request) -> Response:
        """Answer the messages of a conversation about pictures, a video or nothing but text."""
        try:
            response = await self._chat(request)
        except Refused as refusal:
            response = refuse(refusal)
        except Exception as error:
            response = refuse(_refusal_of(error))
        self.metrics.requests.labels(str(response.status_code)).inc()
        return response

    async def _chat(self, request: Request) -> Response:
        limit = self._options.body_mb << 20
        if self._inside > self._options.waiting:
            await read_body(request, limit, keep=False)  # or the client would see a broken connection
            raise Refused(429, "too many requests wait already: try again soon", "queue_full")
        with contextlib.ExitStack() as place:
            self._enter(1)
            place.callback(self._enter, -1)
            body = await read_body(request, limit)
            wanted, parsed = await asyncio.to_thread(self._read, body)
            pieces: asyncio.Queue[str | None] = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def tell(piece: str | None) -> None:
                with contextlib.suppress(RuntimeError):  # the server has stopped
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)

            job = Job(wanted, tell, time.monotonic() + self._options.deadline_s)
            job.done.add_done_callback(lambda _: tell(None))
            (self.live if wanted.camera else self._engine).put(job)
            writer = Writer(parsed.model or self._manifest.name)
            if not parsed.stream:
                await _unless_gone(request, job, asyncio.wrap_future(job.done))
                result = job.done.result()
                self.metrics.count(result)
                return JSONResponse(writer.whole(result), headers=_age(job))
            # What fails before the first word has a status of its own.
            first = await _unless_gone(request, job, asyncio.ensure_future(pieces.get()))
            if first is None:
                job.done.result()
            wants_usage = bool(parsed.stream_options and parsed.stream_options.include_usage)
            events = self._events(job, writer, first, pieces, wants_usage)
            response = _Timed(events, self._options.deadline_s, job, place.pop_all())
            response.headers.update(_age(job))
            return response

    def _read(self, body: bytes) -> tuple[GenerationRequest, ChatRequest]:
        try:
            parsed = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            # Of the forms that a field may have, the one that was meant is wrong farthest inside.
            errors = error.errors(include_url=False, include_input=False, include_context=False)
            found = max(errors, key=lambda each: len(each["loc"]))
            where = _where(found["loc"])
            raise Refused(
                400, f"{where or 'the body'}: {found['msg']}"[:500], "invalid_request", where or None
            ) from None
        camera = self._camera_of(parsed.model or self._manifest.name)
        if camera:
            self.live.check(camera)
        vision = self._manifest.vision
        wanted = read_conversation(parsed, self._options, vision.fps, vision.frames_per_step, camera)
        return wanted, parsed

    async def _events(
        self,
        job: Job,
        writer: Writer,
        piece: str | None,
        pieces: "asyncio.Queue[str | None]",
        wants_usage: bool,
    ) -> AsyncIterator[str]:
        yield writer.chunk({"role": "assistant", "content": ""})
        while piece is not None:
            yield writer.chunk({"content": piece})
            piece = await pieces.get()
        try:
            result = job.done.result()
        except Exception as error:
            yield f"data: {json.dumps(_refusal_of(error).body)}\n\n"
            return
        self.metrics.count(result)
        yield writer.chunk({}, result.ended.reason)
        if wants_usage:
            yield writer.usage(result)
        yield DONE

    def _enter(self, change: int) -> None:
        """Count requests that are inside."""
        self._inside += change
        self.metrics.inside.set(self._inside)


class _Timed(StreamingResponse):
    """A stream that a client who does not read cannot hold open beyond a deadline.

    Args:
        events: of the stream.
        seconds: the deadline.
        job, place: given up and closed when it ends, however it ends.
    """

    def __init__(self, events: AsyncIterator[str], seconds: float, job: Job, place: contextlib.ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._seconds, self._job, self._place = seconds, job, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.wait_for(super().__call__(scope, receive, send), self._seconds)
        except (TimeoutError, asyncio.TimeoutError):
            _LOG.warning("an answer was not taken in time")
        finally:
            self._job.gone.set()
            self._place.close()


async def _unless_gone(request: Request, job: Job, waited: "asyncio.Future[Any]") -> Any:
    """What is waited for; a client that goes away gives its job up."""
    waited.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come when nobody wants it
    try:
        while not (await asyncio.wait([waited], timeout=_LOOK_S))[0]:
            if await request.is_disconnected():
                raise Refused(499, "the client has gone")
        return waited.result()
    except BaseException:
        job.gone.set()
        job.done.cancel()
        waited.cancel()
        raise


def _where(path: tuple[int | str, ...]) -> str:
    """Where in the body, without pydantic's names for the forms of a field: ``messages.0.content.1.image_url``."""
    parts = [str(part) for part in path if isinstance(part, int) or part.isidentifier()]
    return ".".join(part for before, part in zip(["", *parts], parts, strict=False) if part != before)


def _refusal_of(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, ContextFullError):
        return Refused(400, str(error), "context_length_exceeded", "messages")
    if isinstance(error, QueueFullError):
        return Refused(429, str(error), "queue_full")
    if isinstance(error, LateError | GoneError):
        return Refused(503, str(error), "deadline")
    if isinstance(error, StreamEndedError):
        return Refused(503, str(error), "stopped")
    if isinstance(error, ScoreEdgeError):
        return Refused(400, str(error), "invalid_request")
    frame = error.__traceback__
    while frame and frame.tb_next:
        frame = frame.tb_next
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
    _LOG.error("a request failed: %s at %s", type(error).__name__, where)  # without its words: they may be the client's
    return Refused(500, "something unforeseen went wrong: see the server's log")


def _age(job: Job) -> dict[str, str]:
    return {} if job.frame_age_s is None else {"X-Frame-Age": f"{job.frame_age_s:.3f}"}


async def _not_valid(request: Request, error: Exception) -> Response:
    found = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": ("",), "msg": ""}
    return refuse(Refused(400, f"{found['loc'][-1]}: {found['msg']}"[:500], "invalid_request", str(found["loc"][-1])))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = (error.headers or {}).get("Allow")
    if not allowed:
        return refuse(Refused(error.status_code, "there is nothing at this address", "not_found"))
    response = refuse(Refused(405, f"this address takes {allowed}, not {request.method}", "method_not_allowed"))
    response.headers["Allow"] = allowed
    return response
