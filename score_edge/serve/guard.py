"""What every request passes before anything of it is read: the key, and that no foreign page sent it."""

import hmac
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from score_edge.serve.options import ServeOptions
from score_edge.serve.page_files import PAGE
from score_edge.serve.refusal import Refused
from score_edge.serve.replies import refuse

_OPEN = ("/health", "/")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Guard:
    """Refuses requests without the key, and those that a web page of somebody else made a browser send."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self._app, self._options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refuse(refusal)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refused | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        # A name that somebody else's DNS points at this machine would let his page read what stands here.
        if self._options.local and _split(f"//{host}").hostname not in _LOCAL | {self._options.host}:
            return Refused(403, "this server answers to localhost only", "wrong_host")
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            return Refused(403, "requests of other web pages are not answered", "wrong_origin")
        if self._options.key and not _open(scope["path"]):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode("latin-1"), self._options.key.encode())
            if scheme.lower() != "bearer" or not same:
                return Refused(401, "a valid key is required: Authorization: Bearer ...", "invalid_api_key")
        return None


def _open(path: str) -> bool:
    return path in _OPEN or path.startswith(PAGE)


def _split(url: str) -> SplitResult:
    """Its parts; none of garbage, so that it is nobody's."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
