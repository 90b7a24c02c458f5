"""Whether a video file is HDR, which OpenCV does not say: read from its MP4 or Matroska header."""

from pathlib import Path
from typing import Final

_TRANSFERS: Final = {16: "PQ", 18: "HLG"}
_HEADER: Final = 1 << 16
_MATROSKA: Final = b"\x1a\x45\xdf\xa3"
_TRANSFER_ELEMENT: Final = b"\x55\xba\x81"


def transfer(path: Path, head: bytes) -> str:
    """``PQ``, ``HLG``, or empty where the container says nothing of the kind; transport streams never do.

    Args:
        path: of the file.
        head: its first bytes.
    """
    with path.open("rb") as file:
        if head.startswith(_MATROSKA):
            header = file.read(_HEADER)
            at = header.find(_TRANSFER_ELEMENT)
            return _TRANSFERS.get(header[at + 3], "") if 0 <= at < len(header) - 3 else ""
        size = path.stat().st_size
        at = 0
        while at + 8 <= size:
            file.seek(at)
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if length == 1:
                length = int.from_bytes(file.read(8), "big")
            if kind == b"moov":
                moov = file.read(min(length, 64 << 20))
                at = max(moov.find(b"colrnclx"), moov.find(b"colrnclc"))
                return _TRANSFERS.get(int.from_bytes(moov[at + 10 : at + 12], "big"), "") if at >= 0 else ""
            if length < 8 or not (kind.isalnum() and kind.isascii()):
                return ""
            at += length
    return ""
