"""What OpenCV does not say of a video file, read from its header: whether it is HDR, and how much of it is shown."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TRANSFERS: Final = {16: "PQ", 18: "HLG"}
_HEADER: Final = 1 << 16
_MATROSKA: Final = b"\x1a\x45\xdf\xa3"
_TRANSFER_ELEMENT: Final = b"\x55\xba\x81"


def read_video_header(path: Path, head: bytes) -> bytes:
    """What a container says of itself: the start of a Matroska file, the box of an MP4, of others nothing.

    Args:
        path: of the file.
        head: its first bytes.
    """
    if head.startswith(_MATROSKA):
        with path.open("rb") as file:
            return file.read(_HEADER)
    return _moov(path)


def transfer(header: bytes) -> str:
    """``PQ``, ``HLG``, or empty where the container says nothing of the kind; transport streams never do."""
    if header.startswith(_MATROSKA):
        at = header.find(_TRANSFER_ELEMENT)
        return _TRANSFERS.get(header[at + 3], "") if 0 <= at < len(header) - 3 else ""
    at = max(header.find(b"colrnclx"), header.find(b"colrnclc"))
    return _TRANSFERS.get(int.from_bytes(header[at + 10 : at + 12], "big"), "") if at >= 0 else ""


def shown_seconds(header: bytes) -> float:
    """Seconds that the edit list of an MP4 shows; infinite where no such list says it.

    Phones trim a video, and ``ffmpeg -ss … -c copy`` cuts one, by such a list: the other frames stay in the file.
    """
    times = _box(header, b"mvhd")
    per_second = _number(times, 20 if times[:1] == b"\1" else 12, 4)
    for kind, track in _boxes(header):
        if kind == b"trak" and _box(_box(track, b"mdia"), b"hdlr")[8:12] == b"vide":
            edits = _box(_box(track, b"edts"), b"elst")
            wide = 8 if edits[:1] == b"\1" else 4
            places = range(8, len(edits) - 2 * wide - 3, 2 * wide + 4)
            nothing = 256**wide - 1  # -1: an edit in which nothing is shown
            shown = sum(_number(edits, at, wide) for at in places if _number(edits, at + wide, wide) != nothing)
            return shown / per_second if shown and per_second else math.inf
    return math.inf


def _moov(path: Path) -> bytes:
    """The box of an MP4 that describes it; empty where there is none."""
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at + 8 <= size:
            file.seek(at)
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            if kind == b"moov":
                return file.read(min(at + length - file.tell(), 64 << 20)) if length > 8 else b""
            if length < 8 or not (kind.isalnum() and kind.isascii()):
                return b""
            at += length
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The boxes in the content of one, each with its kind and content."""
    at = 0
    while at + 8 <= len(data):
        length = _number(data, at, 4)
        if length < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _box(data: bytes, kind: bytes) -> bytes:
    """The content of the first box of a kind; empty where there is none."""
    return next((content for found, content in _boxes(data) if found == kind), b"")


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
