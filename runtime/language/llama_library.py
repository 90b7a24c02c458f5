"""The llama.cpp library: opening a model, running one batch over numpy's memory, and why something failed."""

import ctypes
import functools
import os
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Int32
from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.free_memory import free_memory
from score_edge.runtime.language.adapter_file import LEARN_AGAIN, check_adapter

WARNING, ERROR, CONTINUED = 3, 4, 5
ASK_FOR_LESS = (
    "ask for less: fewer steps, a lower retention, a shorter answer, a smaller context, fewer clips or cameras"
)
_MOST_CELLS = 2**31 - 1

# llama.cpp gives the reason of a failure only to its log, of which a process has one.
_log: deque[tuple[int, str]] = deque(maxlen=32)


@functools.cache
def library() -> ModuleType:
    """llama-cpp-python's low-level module, with llama.cpp's log kept instead of printed."""
    llama = require("llama_cpp.llama_cpp")
    llama.llama_log_set(_log_callback(llama), None)
    llama.llama_backend_init()
    return llama


@functools.cache  # keeps the callback alive as long as llama.cpp may call it
def _log_callback(llama: ModuleType) -> Any:
    def remember(level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace")
        if level in (WARNING, ERROR):
            _log.append((level, line))
        elif level == CONTINUED and _log:
            _log[-1] = (_log[-1][0], _log[-1][1] + line)

    return llama.llama_log_callback(remember)


def reason() -> str:
    """llama.cpp's words on the latest call, as the end of a one-line message; empty when it said nothing."""
    # The first error is the cause; what follows is every caller passing it on.
    lines = [line for level, line in _log if level == ERROR] or [line for _, line in _log]
    return f": {' '.join(lines[0].split())}" if lines else ""


def clear_log() -> None:
    """Before a call whose failure `reason` is to explain."""
    _log.clear()


def system_info() -> str:
    """What llama.cpp was built with and found on this machine, for example ``CPU: AVX2 FMA LLAMAFILE``."""
    said = library().llama_print_system_info().decode("utf-8", "replace").split("|")
    parts = (" ".join(part.split()).replace(" : ", ": ").removesuffix(" = 1") for part in said)
    return " ".join(part for part in parts if part and not part.endswith(" = 0"))


def open_model(path: Path, gpu_layers: int) -> Any:
    """Load a GGUF file; -1 offloads every layer where llama.cpp was built with a GPU."""
    llama = library()
    if not path.is_file():
        raise ScoreEdgeError(f"no model file at {path}", "give the path of a .gguf file")
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    # With these buffers a build by gcc 12 crashes on quantised weights where the CPU has AMX.
    params.use_extra_bufts = False
    _log.clear()
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ScoreEdgeError(
            f"llama.cpp cannot load {path}{reason()}", "check that the file is a complete GGUF of a language model"
        )
    return model


def open_adapter(model: Any, path: Path) -> Any:
    """Load a LoRA for a model, before its context is made, which counts on it; it is freed with the model.

    Raises:
        ScoreEdgeError: the file is no LoRA, damaged, or for another model.
    """
    check_adapter(path)
    llama = library()
    _log.clear()
    adapter = llama.llama_adapter_lora_init(model, os.fsencode(path))
    if not adapter:
        raise ScoreEdgeError(f"llama.cpp cannot use the adapter {path}{reason()}", LEARN_AGAIN)
    return adapter


def open_context(
    model: Any,
    *,
    context: int,
    sequences: int,
    batch: int,
    threads: int,
    flash_attention: bool,
    cache: str,
    spares: bool = False,
    adapter: Any = None,
) -> Any:
    """Make buffers, and a KV cache of `context` cells for each of `sequences`.

    An `adapter` of the model is applied to all of them. With `spares` there are twice as many places, and all share one
    pool of cells, so that a copy of a sequence costs nothing but its recurrent state.
    """
    llama = library()
    params = llama.llama_context_default_params()
    params.n_ctx = context * sequences
    params.n_batch = params.n_ubatch = batch
    params.n_seq_max = 2 * sequences if spares else sequences
    params.kv_unified = spares
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = llama.GGML_TYPE_F32 if cache == "f32" else llama.GGML_TYPE_F16
    auto, off = llama.LLAMA_FLASH_ATTN_TYPE_AUTO, llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.flash_attn_type = auto if flash_attention else off
    params.no_perf = True
    _log.clear()
    handle = llama.llama_init_from_model(model, params)
    if not handle:
        raise ScoreEdgeError(f"cannot make a context of {context} tokens{reason()}", ASK_FOR_LESS)
    if adapter is not None:
        llama.llama_set_adapters_lora(handle, (type(adapter) * 1)(adapter), 1, (ctypes.c_float * 1)(1.0))
    return handle


def check_cells(cells: int, cell_bytes: int | None) -> None:
    """Refuse a KV cache that does not fit into memory: Linux would kill this process, or another, without a word.

    Args:
        cells: of all sequences.
        cell_bytes: of one; None where it is not known.

    Raises:
        ScoreEdgeError: it takes more than is free, or has more cells than llama.cpp can count.
    """
    if cells > _MOST_CELLS:
        raise ScoreEdgeError(f"a KV cache of {cells} cells is more than llama.cpp can count", ASK_FOR_LESS)
    free, needed = free_memory(), cells * (cell_bytes or 0)
    if free is not None and needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise ScoreEdgeError(f"a KV cache of {cells} cells takes {sizes}", ASK_FOR_LESS)


def decode(
    handle: Any, content: Int32 | Float32, positions: Int32, outputs: NDArray[np.int8], sequence: int = 0
) -> int:
    """Run one batch and return llama.cpp's code: 0 done, 1 context full, anything else refused.

    Args:
        handle: a context.
        content: (n,) int32 token ids, or (n, D) float32 rows of the model's width; n at most llama_n_batch.
        positions: (n,) int32, or (4, n) int32 for rows on M-RoPE, C-contiguous.
        outputs: (n,) int8, 1 where logits are wanted.
        sequence: whose cells these become.
    """
    llama = library()
    # llama_batch_init would allocate one position per token where M-RoPE takes four, and llama_batch_free would free
    # numpy's memory: the struct is built here and belongs to nobody.
    batch = llama.llama_batch()
    batch.n_tokens = len(content)
    if content.ndim == 1:
        batch.token = pointer(content, llama.llama_token)
    else:
        batch.embd = pointer(content, ctypes.c_float)
    batch.pos = pointer(positions, llama.llama_pos)
    batch.logits = pointer(outputs, ctypes.c_int8)
    counts, owner = np.ones(len(content), np.int32), np.array([sequence], np.int32)
    owners = np.full(len(content), owner.ctypes.data, np.uintp)
    batch.n_seq_id = pointer(counts, ctypes.c_int32)
    batch.seq_id = ctypes.cast(owners.ctypes.data, type(batch.seq_id))
    _log.clear()
    return int(llama.llama_decode(handle, batch))


def pointer(array: NDArray[Any], kind: Any) -> Any:
    """A C pointer to an array's memory; it keeps the array alive."""
    return array.ctypes.data_as(ctypes.POINTER(kind))
