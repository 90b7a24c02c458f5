"""The embedding rows of text tokens, read from the GGUF: with them, text and visual tokens go through one batch.

llama.cpp takes ids or rows in a call, not both, and a call has a price: the weights are read once for each. A pruned
step is a handful of rows between a handful of words. Rows equal ids bit for bit in the families listed here (with a
table in Q6_K, which ggml looks up in another order of products, to the last bit).
"""

import ctypes
import functools
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.core import Float32, Int32

# Elsewhere the graph scales what it looks up, or looks up more than one table.
_PLAIN_LOOKUP = frozenset({"lfm2", "llama", "qwen2", "qwen2vl", "qwen3", "qwen35", "qwen3vl"})
_TABLE = "token_embd.weight"
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes per value of a GGUF type
_STRING, _ARRAY = 8, 9


class _Traits(ctypes.Structure):
    """``ggml_type_traits``."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]


class TokenRows:
    """The token table of a GGUF file, mapped into memory and converted row by row as ggml does.

    Args:
        data: the mapped file.
        offset: of the table in it.
        kind: ggml's number of its type.
        width: floats per row.
        tokens: rows.
    """

    def __init__(self, data: mmap.mmap, offset: int, kind: int, width: int, tokens: int) -> None:
        self._traits = _traits(kind)
        self._width = width
        row = width // self._traits.blck_size * self._traits.type_size
        self._rows = np.frombuffer(data, np.uint8, row * tokens, offset).reshape(tokens, row)

    @staticmethod
    def open(path: Path) -> "TokenRows | None":
        """The table of a file; None where rows could not take the place of ids: another family, a split file."""
        try:
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            architecture, table, start = _read_header(data)
        except (OSError, ValueError, struct.error, IndexError, KeyError):
            return None
        if architecture not in _PLAIN_LOOKUP or table is None:
            return None
        (width, tokens), kind, offset = table
        return TokenRows(data, start + offset, kind, width, tokens)

    def __call__(self, ids: Int32, width: int) -> Float32:
        """(n, width) float32 rows of ids; columns behind the table's own are zero (Qwen3-VL's deeper levels)."""
        rows: Float32 = np.zeros((len(ids), width), np.float32)
        found = np.empty(self._width, np.float32)
        for i, token in enumerate(ids):
            source = np.ascontiguousarray(self._rows[token])
            if self._traits.to_float:
                self._traits.to_float(source.ctypes.data, found.ctypes.data, self._width)
                rows[i, : self._width] = found
            else:  # float32 needs no conversion
                rows[i, : self._width] = source.view(np.float32)
        return rows


@functools.cache
def _traits(kind: int) -> _Traits:
    from llama_cpp import llama_cpp

    # Looked for in the library that is loaded, which is linked to ggml's: it may be another than the package's own.
    get = llama_cpp._lib.ggml_get_type_traits
    get.restype, get.argtypes = ctypes.POINTER(_Traits), [ctypes.c_int]
    traits: _Traits = get(kind).contents
    return traits


def _read_header(data: mmap.mmap) -> tuple[str, tuple[tuple[int, int], int, int] | None, int]:
    """Architecture; shape, type and offset of the token table; where the data begins (GGUF 2 and 3)."""
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data, 0)
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError("no GGUF")
    at, known = 24, dict[str, Any]()
    for _ in range(pairs):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        value, at = _value(data, at + 4, kind)
        known[key] = value
    table = None
    for _ in range(tensors):
        name, at = _string(data, at)
        (count,) = struct.unpack_from("<I", data, at)
        *shape, kind, offset = struct.unpack_from(f"<{count}QIQ", data, at + 4)
        at += 4 + 8 * count + 12
        if name == _TABLE and count == 2:
            table = (shape[0], shape[1]), kind, offset
    alignment = int(known.get("general.alignment", 32))
    return str(known["general.architecture"]), table, -(-at // alignment) * alignment


def _value(data: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    """A metadata value, arrays only skipped, and where the next begins."""
    if kind == _STRING:
        return _string(data, at)
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner == _STRING:
            for _ in range(count):
                at += 8 + int.from_bytes(data[at : at + 8], "little")
            return None, at
        return None, at + count * _SCALARS[inner]
    size = _SCALARS[kind]
    return int.from_bytes(data[at : at + size], "little"), at + size


def _string(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode("utf-8", "replace"), at + 8 + length
