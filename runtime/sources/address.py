"""Where a source is, in a type that cannot be printed with its secrets."""

import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from score_edge.errors import ScoreEdgeError, did_you_mean
from score_edge.native_path import printable

_LOCAL: Final = frozenset({"file", "v4l2", "csi", "synthetic"})
"""Schemes whose addresses hold no secret."""
_ONCE: Final = frozenset({"-", "v4l2", "csi", "rtsp", "rtsps", "http", "https"})
SCHEMES: Final = (_LOCAL | _ONCE) - {"-"}


class Address:
    """A source's address. ``str``, ``repr`` and formatting show scheme, host and port of a network address, no more.

    Cameras take passwords and keys before the host, in the path and in the query, and many with ``@`` or ``/`` in them:
    what is no scheme, host or port is masked, and where the host cannot be told for certain it is masked too.

    Args:
        text: as for `open_source`.

    Raises:
        ScoreEdgeError: it is empty.

    Example:
        >>> str(Address("rtsp://me:p@ssw0rd@camera:554/live?key=1"))
        'rtsp://***@camera:554/***'
    """

    __slots__ = ("_raw",)

    def __init__(self, text: "str | Path | Address") -> None:
        self._raw = text.raw() if isinstance(text, Address) else str(text)
        if not self._raw.strip():
            raise ScoreEdgeError("no source is given: its name is empty", "give a path, or . for the working folder")

    def raw(self) -> str:
        """With everything in it: to open it, never to show it."""
        return self._raw

    @property
    def scheme(self) -> str:
        """In small letters; empty for a path, ``-`` for raw frames on standard input."""
        if self._raw == "-" or self._raw.startswith("-?"):
            return "-"
        scheme, separator, _ = self._raw.partition("://")
        return scheme.lower() if separator else ""

    @property
    def path(self) -> Path | None:
        """Where it is on this machine; None when it is no path and no ``file://``.

        Raises:
            ScoreEdgeError: a ``file://`` of another machine.
        """
        if not self.scheme:
            return Path(self._raw)
        if self.scheme != "file":
            return None
        host, slash, path = self._raw[len("file://") :].partition("/")
        if host.lower() not in ("", "localhost") or not slash:
            raise ScoreEdgeError(f"{self} is not a file of this machine", "write file:///folder/clip.mp4, or the path")
        return Path(os.fsdecode(unquote_to_bytes(os.fsencode(slash + path))))

    @property
    def name(self) -> str:
        """The file's name; of anything else what `str` shows."""
        path = self.path
        return str(self) if path is None else printable(path.name)

    @property
    def once(self) -> bool:
        """What it gives cannot be had a second time: a camera, a stream, a pipe."""
        return self.scheme in _ONCE

    @property
    def query(self) -> str:
        """What stands behind the first question mark. `urlsplit` would refuse a ``[`` in a password, and say it."""
        return self._raw.partition("?")[2].partition("#")[0]

    def options(self, known: dict[str, str]) -> dict[str, str]:
        """The options behind the question mark, filled up with defaults.

        Raises:
            ScoreEdgeError: an option that is not known, or one without a value.

        Example:
            >>> Address("csi://0?width=640").options({"width": "1280", "height": "720"})
            {'width': '640', 'height': '720'}
        """
        given = dict(parse_qsl(self.query, keep_blank_values=True))
        for name, value in given.items():
            if name not in known:
                raise ScoreEdgeError(f"{self}: {name!r} is not an option of this source", did_you_mean(name, known))
            if not value:
                raise ScoreEdgeError(f"{self}: option {name} has no value", f"for example {name}={known[name] or 1}")
        return {**known, **given}

    def whole_number(self, name: str, text: str) -> int:
        """An option's value as a number from 0 up. Raises ScoreEdgeError when it is none, or has ten digits."""
        if not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise ScoreEdgeError(f"{self}: option {name} must be a whole number, not {text[:40]!r}")
        return int(text)

    def __str__(self) -> str:
        if self.scheme in ("", "-") or self.scheme in _LOCAL:
            return printable(self._raw)
        rest = self._raw.partition("://")[2]
        authority = rest[: min((rest.index(mark) for mark in "/?#" if mark in rest), default=len(rest))]
        behind = rest[len(authority) :]
        _, at, host = authority.rpartition("@")
        name, colon, port = host.partition(":") if not host.startswith("[") else ("", "", "")
        if "@" in behind or (colon and not port.isdecimal()) or "%" in name:
            return f"{self.scheme}://***"
        return f"{self.scheme}://{'***@' if at else ''}{host}{'/***' if behind.strip('/') else ''}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._raw == self._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __reduce__(self) -> str:
        raise TypeError("an address is not pickled: it may hold a password")
