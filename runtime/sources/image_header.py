"""How large a picture is and how many it holds, from its first bytes: known before anything is decoded."""

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself.

    Attributes:
        kind: png, jpeg, webp, bmp, tiff, gif or pnm.
        width, height: pixels.
        frames: of an animation, or pages; 1 for a picture, 0 for an animation that does not say how many.
        bits: per channel, where the format may have more than 8.
    """

    kind: str
    width: int
    height: int
    frames: int = 1
    bits: int = 8


def read_header(data: bytes) -> Header | None:
    """The header of an encoded picture; None when it is none of these kinds, or is damaged."""
    for start, reader in _READERS:
        if data.startswith(start):
            try:
                header = reader(data)
            except (struct.error, IndexError, ValueError, KeyError):
                return None
            return header if header and min(header.width, header.height) > 0 else None
    return None


def _png(data: bytes) -> Header:
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    before_pixels = data[: data.find(b"IDAT")] if b"IDAT" in data else data
    at = before_pixels.find(b"acTL")
    return Header("png", width, height, struct.unpack_from(">I", data, at + 4)[0] if at >= 0 else 1, bits)


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        marker, length = struct.unpack_from(">xBH", data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header("jpeg", width, height)
        at += 2 + length


def _webp(data: bytes) -> Header | None:
    kind = data[12:16]
    if data[8:12] != b"WEBP":
        return None
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return Header("webp", width, height, _webp_frames(data) if data[20] & 2 else 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", data, 26)
    return Header("webp", width & 0x3FFF, height & 0x3FFF)


def _webp_frames(data: bytes) -> int:
    at, frames = 12, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    return frames


def _bmp(data: bytes) -> Header:
    width, height = struct.unpack_from("<ii", data, 18)
    return Header("bmp", abs(width), abs(height))


def _tiff(data: bytes) -> Header | None:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    pages, first, seen = 0, {256: 0, 257: 0, 258: 8}, set()
    while at and at not in seen:
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count if not pages else 0, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", data, entry)
            if tag in first:
                # several shorts (bits of each channel) lie elsewhere
                place = struct.unpack_from(f"{order}I", data, entry + 8)[0] if kind == 3 and values > 2 else entry + 8
                first[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, place)[0]
        pages += 1
        (at,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)
    return Header("tiff", first[256], first[257], pages, first[258])


def _gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("gif", width, height, 0)


def _pnm(data: bytes) -> Header:
    words = b" ".join(line.partition(b"#")[0] for line in data[:4096].splitlines()).split()
    return Header(
        "pnm", int(words[1]), int(words[2]), 1, 16 if words[0] in (b"P5", b"P6") and int(words[3]) > 255 else 8
    )


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"GIF8", _gif),
    *((b"P%d" % n, _pnm) for n in range(1, 7)),
)
