"""The embedding rows of text tokens, read from the GGUF: with them, text and visual tokens go through one batch.

llama.cpp takes ids or rows in a call, not both, and a call has a price: the weights are read once for each. A pruned
step is a handful of rows between a handful of words. Rows equal ids bit for bit in the families listed here (with a
table in Q6_K, which ggml looks up in another order of products, to the last bit).
"""

import ctypes
import functools
import mmap
from pathlib import Path

import numpy as np

from score_edge.core import Float32, Int32
from score_edge.runtime.language.gguf_header import read_header

# Elsewhere the graph scales what it looks up, or looks up more than one table.
_PLAIN_LOOKUP = frozenset({"lfm2", "llama", "qwen2", "qwen2vl", "qwen3", "qwen35", "qwen3vl"})
_TABLE = "token_embd.weight"


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
            header = read_header(path)
        except (OSError, ValueError):
            return None
        table = header.tensors.get(_TABLE)
        if header.values.get("general.architecture") not in _PLAIN_LOOKUP or table is None or len(table.shape) != 2:
            return None
        width, tokens = table.shape
        return TokenRows(header.data, table.offset, table.kind, width, tokens)

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
