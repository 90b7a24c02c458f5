"""How a server is run: the command line's options, or the same names in a TOML file."""

import dataclasses
import ipaddress
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from score_edge.bundle.record import read_record
from score_edge.errors import ScoreEdgeError, require
from score_edge.serve.mqtt_address import Broker

_POSITIVE = ("context", "clips", "body_mb", "images", "deadline_s", "pixels_m", "threads", "fps", "alert_above")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen at.
        port: 0 takes a free one.
        key: that every request must bring; required unless only this machine can connect.
        source: addresses of cameras by name; they are watched as long as the server runs.
        fps: frames per second to take from each; None takes the bundle's.
        alert_above: kept tokens over their usual number that make an alert; each camera's can be changed while it runs.
        mqtt: address of a broker at which cameras are published; empty for none.
        when_surprised: question to ask the camera at every alert; empty asks nothing.
        media_root: folder whose videos requests may name; None lets them name none.
        retention, selector: of cameras, and of requests that ask for none; None takes the bundle's.
        context: KV cells of each clip and each camera: prompt, kept tokens, question and answer.
        clips: whose kept tokens stay prefilled, so that another question about one costs its own text.
        waiting: requests at most that wait for the model; more are refused.
        deadline_s: longest that a request may take, waiting included.
        body_mb: largest request.
        images: at most in a request; of a video as many steps are taken.
        pixels_m: millions of pixels that one image may have.
        threads: CPU threads; None takes what is free.

    Raises:
        ScoreEdgeError: a number out of range, a folder that is none, no key where others can connect.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    key: str = field(default="", repr=False)
    source: dict[str, str] = field(default_factory=dict, repr=False)
    fps: float | None = None
    alert_above: float = 3.0
    when_surprised: str = ""
    mqtt: str = field(default="", repr=False)
    media_root: str | None = None
    retention: float | None = None
    selector: str | None = None
    context: int = 4096
    clips: int = 2
    waiting: int = 8
    deadline_s: float = 120.0
    body_mb: int = 32
    images: int = 64
    pixels_m: float = 16.0
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ScoreEdgeError(f"{name} is {value}, but must be above 0")
        if self.waiting < 0 or not 0 <= self.port < 65536:
            raise ScoreEdgeError("waiting or port is out of range", "--waiting 8 --port 8090")
        if self.retention is not None and not 0 < self.retention <= 1:
            raise ScoreEdgeError(f"a retention of {self.retention} is outside (0, 1]", "0.1 keeps a tenth")
        if "all" in self.source:
            raise ScoreEdgeError("no camera may be called all: that name asks all of them", "call it something else")
        if self.when_surprised and not self.source:
            raise ScoreEdgeError("without a camera nothing surprises", "add a --source, or leave out when_surprised")
        if self.mqtt:
            Broker.parse(self.mqtt)
            if not self.source:
                raise ScoreEdgeError(
                    "without a camera there is nothing to publish", "add a --source, or leave out mqtt"
                )
        if self.media_root is not None and not Path(self.media_root).is_dir():
            raise ScoreEdgeError(f"media_root {self.media_root} is no folder", "name one that is there")
        if not self.key and not self.local:
            raise ScoreEdgeError(
                f"others can connect to {self.host}, so a key is required", "SCORE_EDGE_KEY=... or --key ..."
            )
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:
            raise ScoreEdgeError("the key has characters that no header can carry", "use letters and digits")

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def read_options(path: Path | None, given: dict[str, Any]) -> ServeOptions:
    """Options of a file, and over them those of the command line.

    Args:
        path: a TOML file; None for none.
        given: what the command line named.

    Raises:
        ScoreEdgeError: the file cannot be read, an unknown name in it, a value that does not fit.
    """
    document: dict[str, Any] = {}
    if path is not None:
        toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "serve")
        try:
            document = toml.loads(path.read_text(encoding="utf-8-sig"))  # Windows begins its files with a mark
        except OSError as error:
            raise ScoreEdgeError(f"{path} cannot be read: {error.strerror}", "check the path") from error
        except ValueError as error:
            raise ScoreEdgeError(f"{path} is no TOML: {error}", "see docs/serve.md for an example") from error
    if not isinstance(document.get("source", {}), dict):
        raise ScoreEdgeError(f"{path}: source must be a table", 'write [source], and below it front = "rtsp://..."')
    try:
        options = read_record(ServeOptions, document, str(path))
    except ScoreEdgeError as error:
        what, value, _ = error.message.partition(", not ")  # it may be a password
        raise ScoreEdgeError(what, "see docs/serve.md for an example" if value else error.hint) from None
    return dataclasses.replace(options, **given)
