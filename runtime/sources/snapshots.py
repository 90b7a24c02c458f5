"""An HTTP address that gives one picture each time it is asked, as most cameras have."""

import http.client
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np

from score_edge.core import Frame, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.base import Source, Ticks
from score_edge.runtime.sources.camera import FIRST_WAIT_S, LONGEST_WAIT_S, SILENT_S
from score_edge.runtime.sources.image_header import read_header
from score_edge.runtime.sources.opencv import MAX_PIXELS, quiet_cv2, rgb

_MOST_BYTES: Final = 64 << 20
_CHUNK: Final = 1 << 16
_PAUSE_S: Final = 0.02
_FAILURES: Final = (OSError, http.client.HTTPException, ValueError)  # URLError is an OSError


class Snapshots(Source):
    """A live source: the picture is fetched when it is due, and once more after every failure."""

    live = endless = True

    def __init__(self, address: Address) -> None:
        self._address = address
        self._closed = threading.Event()
        self._lost = ""
        self._fetching_since: float | None = None
        self.broken = 0

    @property
    def state(self) -> str:  # type: ignore[override]
        """What it is doing while it gives no pictures; also said while one is being waited for."""
        since = self._fetching_since
        if not self._lost and since is not None and time.monotonic() - since > SILENT_S:
            return f"no picture from {self._address} for {SILENT_S:.0f} s"
        return self._lost

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        """Due pictures, without end until `close`; after an interruption the first one says so."""
        began, index, wait, gap = time.monotonic(), 0, FIRST_WAIT_S, False
        while not self._closed.is_set():
            time_s = time.monotonic() - began
            if not due(time_s):
                self._closed.wait(max(_PAUSE_S, due.next_s - time_s) if isinstance(due, Ticks) else _PAUSE_S)
                continue
            image, tries = self._fetch(), 0
            while image is None:
                tries += 1
                self.broken += 1
                gap, self._lost = True, f"no picture from {self._address}, attempt {tries}"
                if self._closed.wait(wait):
                    return
                wait = min(2 * wait, LONGEST_WAIT_S)
                image = self._fetch()
            self._lost, wait = "", FIRST_WAIT_S
            yield Frame(image, time.monotonic() - began, index, gap)
            gap = False
            index += 1

    def close(self) -> None:
        """Make `read` end."""
        self._closed.set()

    def _fetch(self) -> Uint8 | None:
        cv2 = quiet_cv2()
        self._fetching_since = time.monotonic()
        try:
            with _get(self._address) as response:
                data = self._read(response)
            header = read_header(data)
            if header and header.width * header.height > MAX_PIXELS:
                return None
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        except (*_FAILURES, cv2.error):
            return None
        finally:
            self._fetching_since = None
        return None if image is None else rgb(image)

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """All of it; nothing of what is cut off, has no end, comes by the drop, or is wanted no longer."""
        length = response.headers.get("Content-Length", "")
        most = int(length) if length.isdecimal() and len(length) < 10 else _MOST_BYTES + 1
        data, until = bytearray(), time.monotonic() + LONGEST_WAIT_S
        while len(data) < most and (chunk := response.read1(min(_CHUNK, most - len(data)))):
            data += chunk
            if len(data) > _MOST_BYTES or time.monotonic() > until or self._closed.is_set():
                return b""
        return bytes(data) if len(data) == most or not length else b""


def what_is_there(address: Address) -> Literal["picture", "file", "stream"]:
    """What an HTTP address gives, by what the server says of it; ``stream`` where it says nothing useful.

    A video of known length is a file; motion JPEG, playlists and videos without an end are streams.

    Raises:
        ScoreEdgeError: a picture behind a certificate that is not trusted. (FFmpeg, which reads streams, trusts all.)
    """
    try:
        return _kind(address, trusting=False)
    except _FAILURES as error:
        reason = getattr(error, "reason", error)
        if not isinstance(reason, ssl.SSLCertVerificationError):
            return "stream"
    try:
        kind = _kind(address, trusting=True)
    except _FAILURES:
        return "stream"
    if kind == "picture":
        raise ScoreEdgeError(
            f"{address}: its certificate is not trusted here: {reason.verify_message}",
            "SSL_CERT_FILE=camera.pem names one that is; or take http:// or rtsp://",
        )
    return kind


def _kind(address: Address, *, trusting: bool) -> Literal["picture", "file", "stream"]:
    with _get(address, trusting=trusting) as response:
        kind = response.headers.get_content_type()
        length = response.headers.get("Content-Length", "")
    if kind.startswith("image/"):
        return "picture"
    streams = ("mpegurl" in kind) or kind.startswith("multipart/")
    return "file" if length.isdecimal() and not streams else "stream"


def _get(address: Address, *, trusting: bool = False) -> http.client.HTTPResponse:
    """The open answer; name and password of the address are sent when the server asks for them."""
    parts = urlsplit(address.raw())
    host = parts.netloc.rpartition("@")[2]
    plain = urlunsplit(parts._replace(netloc=host, fragment=""))
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if parts.username is not None:
        passwords.add_password(None, plain, unquote(parts.username), unquote(parts.password or ""))
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPBasicAuthHandler(passwords),
        urllib.request.HTTPDigestAuthHandler(passwords),
    ]
    if trusting:
        handlers.append(urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
    response: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(plain, timeout=SILENT_S)
    return response
