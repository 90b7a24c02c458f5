"""The header of a GGUF file (versions 2 and 3), read without the gguf package, which no board has."""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies.

    Attributes:
        shape: the fastest axis first, as ggml has it.
        kind: ggml's number of its type.
        offset: in the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands in front of the tensors.

    Attributes:
        data: the whole file, mapped into memory.
        values: metadata, as int, float, bool or str; None for an array.
    """

    data: mmap.mmap
    values: dict[str, int | float | bool | str | None]
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Read a file's header.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no GGUF, of another version, or cut off.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _read(data)
    except (struct.error, IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"no complete GGUF: {type(error).__name__}") from error


def _read(data: mmap.mmap) -> GgufHeader:
    magic, version, count, pairs = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("no GGUF")
    at, values, tensors = 24, dict[str, int | float | bool | str | None](), dict[str, GgufTensor]()
    for _ in range(pairs):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        values[key], at = _value(data, at + 4, kind)
    for _ in range(count):
        name, at = _string(data, at)
        (axes,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{axes}QIQ", data, at + 4)
        at += 4 + 8 * axes + 12
        tensors[name] = GgufTensor(tuple(shape), kind, offset)
    alignment = int(values.get("general.alignment") or 32)
    start = -(-at // alignment) * alignment
    return GgufHeader(
        data, values, {name: GgufTensor(t.shape, t.kind, start + t.offset) for name, t in tensors.items()}
    )


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[int | float | bool | str | None, int]:
    """A metadata value, arrays only skipped, and where the next begins."""
    if kind == _STRING:
        return _string(data, at)
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner != _STRING:
            return None, at + count * struct.calcsize(_SCALARS[inner])
        for _ in range(count):
            at += 8 + int(struct.unpack_from("<Q", data, at)[0])
        return None, at
    (value,) = struct.unpack_from(f"<{_SCALARS[kind]}", data, at)
    return value, at + struct.calcsize(_SCALARS[kind])


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    if at + 8 + length > len(data):
        raise ValueError("no complete GGUF: it ends in a text")
    return data[at + 8 : at + 8 + length].decode("utf-8", "replace"), at + 8 + length
