"""The page for people: a few static files, and headers that let a browser load nothing from anywhere else."""

from importlib import resources
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response

PAGE: Final = "/page/"
"""Below it lie the page's own files, which hold no secret and need no key."""
_KINDS: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asks each time, so that page and server are always of one version
}


def add_page(routes: FastAPI) -> None:
    """Serve the page at ``/`` and its files below ``/page/``; no other file can be asked for."""
    folder = resources.files("score_edge.serve") / "page"
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if _kind(entry.name)}

    async def page() -> Response:
        return _response("index.html")

    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _response(name)

    def _response(name: str) -> Response:
        return Response(files[name], media_type=f"{_kind(name)}; charset=utf-8", headers=_HEADERS)

    for path, route in (("/", page), (f"{PAGE}{{name}}", part)):
        routes.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(route)


def _kind(name: str) -> str | None:
    return _KINDS.get(name.rpartition(".")[2])
