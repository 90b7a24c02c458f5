"""Language models of a known shape with random weights, as GGUF: speed depends on the shape alone.

Needs the `gguf` package and nothing else. What such a model says means nothing.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.atomic import atomic_file
from score_edge.bundle.user_cache import user_cache
from score_edge.errors import ScoreEdgeError, did_you_mean, require
from score_edge.profiling.board import memory_bytes
from score_edge.profiling.llm_decoders import PLAIN, Decoder, GatedDelta, PerLayerInputs, ShortConvolutions
from score_edge.profiling.llm_vocabulary import add_tokenizer, fingerprint

CONTEXT = 131_072
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class LlmShape:
    """The sizes that decide a decoder's speed, from the configuration of the model of that name.

    Attributes:
        width: floats per embedding row.
        mrope: whether visual tokens keep their (t, h, w), as in the Qwen-VL models.
        tied: whether the output head is the embedding table.
        head_width: floats per head where that is no equal share of the width; such models norm queries and keys.
        decoder: what its layers are made of.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    mrope: bool
    tied: bool = True
    head_width: int | None = None
    decoder: Decoder = PLAIN

    @property
    def head(self) -> int:
        """Floats per head."""
        return self.head_width or self.width // self.heads

    @property
    def architecture(self) -> str:
        """llama.cpp's name."""
        return self.decoder.architecture(self)

    @property
    def parameters(self) -> int:
        """Weights, norms and biases left aside."""
        return sum(math.prod(size) for _, size in self.tensors() if len(size) > 1)

    @property
    def bytes(self) -> int:
        """Of the file, about."""
        return 2 * self.parameters

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and size of each, as llama.cpp has them."""
        yield from self.decoder.outside(self).items()
        for i in range(self.layers):
            for name, size in self.decoder.layer(self, i).items():
                yield f"blk.{i}.{name}", size


def _qwen35(
    name: str, layers: int, width: int, heads: int, kv: int, inner: int, values: int = 16, tied: bool = True
) -> LlmShape:
    decoder = GatedDelta(values)
    return LlmShape(name, layers, width, heads, kv, inner, 248_320, True, tied, head_width=256, decoder=decoder)


def _gemma4(name: str, layers: int, width: int, kv: int, inner: int, decoder: PerLayerInputs) -> LlmShape:
    return LlmShape(name, layers, width, 8, kv, inner, 262_144, False, head_width=512, decoder=decoder)


SHAPES = {
    shape.name: shape
    for shape in (
        LlmShape("tiny", 2, 64, 4, 2, 128, 512, mrope=True),
        LlmShape("smollm2-135m", 30, 576, 9, 3, 1536, 49_152, mrope=False),
        LlmShape("smollm2-360m", 32, 960, 15, 5, 2560, 49_152, mrope=False),
        LlmShape("smollm2-1.7b", 24, 2048, 32, 32, 8192, 49_152, mrope=False),
        LlmShape("qwen2.5-0.5b", 24, 896, 14, 2, 4864, 151_936, mrope=True),
        LlmShape("qwen2.5-1.5b", 28, 1536, 12, 2, 8960, 151_936, mrope=True),
        LlmShape("qwen2.5-3b", 36, 2048, 16, 2, 11_008, 151_936, mrope=True),
        LlmShape("qwen2.5-7b", 28, 3584, 28, 4, 18_944, 152_064, mrope=True, tied=False),
        LlmShape("qwen3-0.6b", 28, 1024, 16, 8, 3072, 151_936, mrope=False, head_width=128),
        LlmShape("qwen3-1.7b", 28, 2048, 16, 8, 6144, 151_936, mrope=False, head_width=128),
        LlmShape("qwen3-vl-2b", 28, 2048, 16, 8, 6144, 151_936, mrope=True, head_width=128),
        LlmShape("qwen3-vl-4b", 36, 2560, 32, 8, 9728, 151_936, mrope=True, head_width=128),
        LlmShape("qwen3-vl-8b", 36, 4096, 32, 8, 12_288, 151_936, mrope=True, tied=False, head_width=128),
        _qwen35("qwen3.5-0.8b", 24, 1024, 8, 2, 3584),
        _qwen35("qwen3.5-2b", 24, 2048, 8, 2, 6144),
        _qwen35("qwen3.5-4b", 32, 2560, 16, 4, 9216, values=32),
        _qwen35("qwen3.5-9b", 32, 4096, 16, 4, 12_288, values=32, tied=False),
        LlmShape("lfm2-350m", 16, 1024, 16, 8, 4608, 65_536, mrope=False, decoder=ShortConvolutions()),
        LlmShape("lfm2-1.2b", 16, 2048, 32, 8, 8192, 65_536, mrope=False, decoder=ShortConvolutions()),
        _gemma4("gemma4-e2b", 35, 1536, 1, 6144, PerLayerInputs(5, 20, wide=True)),
        _gemma4("gemma4-e4b", 42, 2560, 2, 10_240, PerLayerInputs(6, 18, wide=False)),
    )
}


def llm_shape(name: str) -> LlmShape:
    """A shape by name.

    Raises:
        ScoreEdgeError: it is not known here.
    """
    if name not in SHAPES:
        raise ScoreEdgeError(f"there is no LLM shape {name!r}", did_you_mean(name, SHAPES))
    return SHAPES[name]


def cache_folder() -> Path:
    """Where written shapes are kept."""
    return user_cache("llm-shapes")


def shaped_gguf(
    shape: LlmShape, folder: Path | None = None, *, tokens: int = 0, on_write: Callable[[], None] = lambda: None
) -> Path:
    """The file of a shape, from the cache or written now, half precision.

    Args:
        shape: from `llm_shape`.
        folder: where to keep it; None takes `cache_folder`.
        tokens: that will be in the KV cache, for the check of the memory.
        on_write: called before a file is written, which takes from seconds to a minute.

    Raises:
        ScoreEdgeError: too little memory to run it, too little disk to write it, or gguf is not installed.
    """
    check_memory(shape, tokens)
    folder = folder or cache_folder()
    path = folder / f"{shape.name}-random-f16-{fingerprint(shape.vocabulary)}.gguf"
    if path.is_file():
        return path
    require("gguf", "profile")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ScoreEdgeError(f"cannot write into {folder}: {error}", "set XDG_CACHE_HOME to another place") from error
    if free < shape.bytes * 1.05:
        raise ScoreEdgeError(
            f"{shape.name} takes {shape.bytes / _GIB:.1f} GiB and {folder} has {free / _GIB:.1f} GiB free",
            "set XDG_CACHE_HOME to a larger disk, or choose a smaller shape",
        )
    on_write()
    try:
        with atomic_file(path) as unfinished:
            _write(shape, unfinished)
    except OSError as error:
        raise ScoreEdgeError(f"cannot write {path}: {error}", "free some disk space") from error
    return path


def check_memory(shape: LlmShape, tokens: int, available: int | None = None) -> None:
    """Refuse a shape that would make the machine swap, or the kernel kill something.

    Args:
        shape: what is to run.
        tokens: in the KV cache.
        available: bytes; None looks at this machine.
    """
    if available is None:
        memory = memory_bytes()
        if memory is None:
            return
        available = memory[0]
    cache = tokens * shape.decoder.cached(shape) * 2
    needed = shape.bytes + cache + _GIB // 4
    if needed > available:
        raise ScoreEdgeError(
            f"{shape.name} with {tokens} tokens needs {needed / _GIB:.1f} GiB of memory, "
            f"{available / _GIB:.1f} GiB are available",
            "choose a smaller shape or fewer --visual-tokens, or close other programs",
        )


def random_rows(shape: LlmShape, steps: int, per_step: int) -> NDArray[np.float32]:
    """(T, N, D) float32, visual tokens that drift a little from step to step; a tenth of them jump."""
    rng = np.random.default_rng(0)
    rows = np.empty((steps, per_step, shape.width), np.float32)
    rows[0] = rng.standard_normal((per_step, shape.width), np.float32)
    for t in range(1, steps):
        rows[t] = rows[t - 1] + 0.05 * rng.standard_normal((per_step, shape.width), np.float32)
        jumps = rng.random(per_step) < 0.1
        rows[t, jumps] = rng.standard_normal((int(jumps.sum()), shape.width), np.float32)
    rows *= np.float32(0.02)
    return rows


def _write(shape: LlmShape, path: Path) -> None:
    gguf = require("gguf", "profile")
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_name(f"{shape.name}, random weights")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    shape.decoder.settings(writer, shape)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    add_tokenizer(writer, gguf, shape.vocabulary)
    tensors = list(shape.tensors())
    for name, size in tensors:
        kind = np.dtype(_kind(name, size))
        writer.add_tensor_info(name, size, kind, int(np.prod(size)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    # One pool cut to every size: drawing billions of numbers would take minutes and change no time measured.
    pool = np.random.default_rng(0).standard_normal(1 << 22, np.float32).astype(np.float16)
    for name, size in tensors:
        writer.write_tensor_data(_values(pool, name, size))
    writer.close()


def _kind(name: str, size: tuple[int, ...]) -> type[np.floating]:
    """llama.cpp computes norms, biases and short convolutions from float32."""
    return np.float32 if len(size) == 1 or ("conv" in name and size[1] < 8) else np.float16


def _values(pool: NDArray[np.float16], name: str, size: tuple[int, ...]) -> NDArray[Any]:
    if len(size) == 1:
        return np.full(size, 0 if name.endswith("bias") else -1 if name.endswith("ssm_a") else 1, np.float32)
    return np.resize(pool * np.float16(size[1] ** -0.5), size).astype(_kind(name, size), copy=False)
