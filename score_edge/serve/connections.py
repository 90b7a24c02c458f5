"""Connections to the server, bounded in time also where nothing is asked."""

import asyncio

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_S = 5
_HEAD_S = 30.0
"""For the head of a request, from the start of the connection or the end of the answer before."""


class BoundedProtocol(H11Protocol):
    """Closes a connection on which the head of a request does not come in time; uvicorn would wait without end."""

    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(transport)
        self._await_head()

    def on_response_complete(self) -> None:
        """The next request may come."""
        super().on_response_complete()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more."""
        if self._due:
            self._due.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._due:
            self._due.cancel()
        self._due = self.loop.call_later(_HEAD_S, self._on_due)

    def _on_due(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def connection_config(app: ASGIApp) -> uvicorn.Config:
    """How a server answers on a socket that listens."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=_LINGER_S,
        h11_max_incomplete_event_size=64 << 10,
    )
