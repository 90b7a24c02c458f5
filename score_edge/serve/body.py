"""Reading the body of a request: never more than it may have, and not for ever."""

import anyio
from starlette.requests import ClientDisconnect, Request

from score_edge.serve.refusal import Refused

_PATIENCE_S = 30.0
_SLOWEST = 32 << 10
"""Bytes per second: what comes more slowly gets `_PATIENCE_S` in all, as does a pause."""


async def read_body(request: Request, limit: int, *, keep: bool = True) -> bytes:
    """The body of a request.

    Args:
        request: whose body was not read yet.
        limit: bytes at most.
        keep: False reads it and throws it away.

    Raises:
        Refused: it is larger, is not JSON by its content type, or does not come in time.
    """
    try:
        return await _read(request, limit, keep)
    except TimeoutError:
        raise Refused(408, "the request came too slowly, or not to its end", "timeout") from None
    except ClientDisconnect:
        raise Refused(499, "the client has gone") from None


async def _read(request: Request, limit: int, keep: bool) -> bytes:
    body, size = bytearray(), 0
    too_large = Refused(413, f"a request may have {limit >> 20} MiB", "request_too_large")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > 2 * limit:
        raise too_large
    began = anyio.current_time()
    with anyio.fail_after(_PATIENCE_S) as scope:
        async for part in request.stream():
            size += len(part)
            if size > 2 * limit:
                raise too_large
            # What is a little too large is read to its end: most clients listen for an answer only then.
            if size <= limit and keep:
                body += part
            scope.deadline = min(anyio.current_time(), began + size / _SLOWEST) + _PATIENCE_S
    if size > limit:
        raise too_large
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if keep and kind != "application/json":
        raise Refused(415, "the body must be application/json", "wrong_content_type")
    return bytes(body)
