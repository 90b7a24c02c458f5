"""llama.cpp as a language model that takes embedding rows.

On several wrong inputs llama.cpp aborts the process or computes something else instead of returning an error. Each of
them is refused here before the call. Not covered: models whose image tokens attend to each other (Gemma 3).
"""

import codecs
import ctypes
import unicodedata
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from score_edge.core import Float32, Int32, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Capabilities, Mark
from score_edge.runtime.language.llama_library import decode, library, open_context, open_model, pointer, reason
from score_edge.runtime.threads import usable_cpus

CONTEXT_FULL = 1


class LlamaCpp:
    """One GGUF model and one sequence.

    Args:
        path: the GGUF file.
        context: tokens that fit in the KV cache.
        batch: tokens per call of llama.cpp; longer prompts are split.
        threads: CPU threads; None takes every CPU this process may use.
        gpu_layers: layers to offload when llama.cpp was built with a GPU; -1 all, 0 none.
        cache: type of the KV cache.

    Raises:
        ScoreEdgeError: llama-cpp-python is missing, or the file is not a model llama.cpp can run.

    Example:
        >>> with LlamaCpp("bundle/llm.gguf") as model:  # doctest: +SKIP
        ...     model.append_tokens(kept)
        ...     video = model.mark()
        ...     model.append_text("What moved?")
        ...     print("".join(model.generate(32)))
        ...     model.rollback(video)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        batch: int = 512,
        threads: int | None = None,
        gpu_layers: int = -1,
        cache: Literal["f16", "f32"] = "f16",
    ) -> None:
        self._llama = llama = library()
        model = open_model(Path(path), gpu_layers)
        try:
            handle = open_context(
                model,
                context=context,
                batch=batch,
                threads=threads or usable_cpus(),
                # On a CPU it makes a question over a filled cache four times slower.
                flash_attention=gpu_layers != 0 and llama.llama_supports_gpu_offload(),
                cache=cache,
            )
        except ScoreEdgeError:
            llama.llama_model_free(model)
            raise
        # Also runs when the object is collected, and before the interpreter goes down.
        self._free = weakref.finalize(self, _free, llama, model, handle)
        self._handle = handle
        self._memory = llama.llama_get_memory(handle)
        self._vocab = llama.llama_model_get_vocab(model)
        self._vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        self._batch = int(llama.llama_n_batch(handle))  # llama.cpp may have made it smaller
        mrope = (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
        self._capabilities = Capabilities(
            width=int(llama.llama_model_n_embd_inp(model)),
            context=int(llama.llama_n_ctx(handle)),
            keeps_positions=llama.llama_model_rope_type(model) in mrope,
            incremental=not (llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)),
            cell_bytes=_cell_bytes(llama, model, 4 if cache == "f32" else 2),
        )
        self._here = Mark(position=0, cells=0)
        self._logits: Float32 | None = None

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do with visual tokens."""
        return self._capabilities

    def close(self) -> None:
        """Free the model; nothing else may be called afterwards."""
        self._free()

    def mark(self) -> Mark:
        """Where the sequence stands now."""
        return self._here

    def rollback(self, mark: Mark) -> None:
        """Forget everything after the mark, so that the next question sees only the video."""
        self._require_open()
        if mark.position > self._here.position or mark.cells > self._here.cells:
            raise ScoreEdgeError("this mark lies ahead of the sequence", "mark again after a reset or rollback")
        if mark != self._here:
            self._forget_after(mark)
            self._here, self._logits = mark, None

    def reset(self) -> None:
        """Forget everything."""
        self._require_open()
        # With data: what is not finite stays in a freed cell, and attention multiplies it by zero.
        self._llama.llama_memory_clear(self._memory, True)
        self._here, self._logits = Mark(position=0, cells=0), None

    def tokenize(self, text: str) -> Int32:
        """(n,) int32 ids of a text; special tokens are parsed, a BOS leads only where the model asks for one."""
        self._require_open()
        # Qwen's tokenizer composes characters first, llama.cpp does not.
        encoded = unicodedata.normalize("NFC", text).encode("utf-8", "replace")
        ids = np.empty(len(encoded) + 2, np.int32)
        room = pointer(ids, self._llama.llama_token)
        at_start = self._here.cells == 0
        count = self._llama.llama_tokenize(self._vocab, encoded, len(encoded), room, len(ids), at_start, True)
        if count < 0:
            raise ScoreEdgeError(f"llama.cpp cannot tokenise a text of {len(text)} characters{reason()}")
        return ids[:count]

    def append_text(self, text: str) -> int:
        """Tokenise (special tokens are parsed) and prefill; returns the number of tokens."""
        ids = self.tokenize(text)
        self._append_ids(ids)
        return len(ids)

    def append_tokens(self, kept: KeptTokens, *, continued: bool = False) -> None:
        """Prefill visual tokens where they stood in the unpruned video, or one after the other on plain RoPE.

        Args:
            kept: n rows of the model's width; contiguous float32 rows are handed over without a copy.
            continued: these are later steps of the video appended last, not a new one; their t and ``kept.steps``
                count from its beginning.

        Raises:
            ScoreEdgeError: wrong width, a row that is not finite, tokens out of order, a full context.
        """
        rows = np.ascontiguousarray(kept.embeddings, np.float32)
        _check_rows(rows, self._capabilities.width)
        _check_positions(kept)
        here, n = self._here, len(rows)
        start = here.video if continued else here.position
        if self._capabilities.keeps_positions:
            positions: Int32 = np.zeros((4, n), np.int32)  # t | h | w | unused
            positions[:3] = start + kept.positions.T
            # Text goes on behind the unpruned grid, however few of its tokens were kept.
            end = max(here.position, start + max(kept.steps, kept.grid.height, kept.grid.width))
        else:
            positions, end = np.arange(here.position, here.position + n, dtype=np.int32), here.position + n
        self._here = Mark(here.position, here.cells, start)
        try:
            self._prefill(rows, positions, end)
        except ScoreEdgeError:
            self._here = here
            raise

    def forget_oldest(self, cells: int, before_step: int) -> bool:
        """Drop the oldest visual tokens of the video: positions keep growing on M-RoPE, move up on plain RoPE.

        Args:
            cells: how many; exactly the tokens of all steps before ``before_step`` that are still there.
            before_step: t of the first step that stays.

        Returns:
            False where the model cannot shift what stays; nothing was dropped then.
        """
        self._require_open()
        here, llama, memory = self._here, self._llama, self._memory
        # llama.cpp aborts when asked to shift what cannot be shifted, M-RoPE among it.
        if not self._capabilities.keeps_positions and not llama.llama_memory_can_shift(memory):
            return False
        end = here.video + (before_step if self._capabilities.keeps_positions else cells)
        if cells and not llama.llama_memory_seq_rm(memory, 0, here.video, end):
            return False
        position = here.position
        if cells and not self._capabilities.keeps_positions:
            llama.llama_memory_seq_add(memory, 0, end, -1, -cells)
            position -= cells
        self._here, self._logits = Mark(position, here.cells - cells, here.video), None
        return True

    def logits(self) -> Float32:
        """(V,) float32 logits of the next token, after the last text was appended."""
        if self._logits is None:
            raise ScoreEdgeError("there is nothing to continue from", "append text first, after the visual tokens")
        return self._logits

    def generate(self, max_tokens: int) -> Iterator[str]:
        """Greedy answer, piece by piece, until an end-of-generation token or max_tokens.

        What ends the answer is not appended to the sequence: neither the end token nor the last of max_tokens.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may span several tokens
        token: int | None = None
        for _ in range(max_tokens):
            if token is not None:
                self._append_ids(np.array([token], np.int32))
            token = self._best()
            if self._llama.llama_vocab_is_eog(self._vocab, token):
                break
            if piece := decoder.decode(self._piece(token)):
                yield piece
        if rest := decoder.decode(b"", final=True):
            yield rest

    def _best(self) -> int:
        logits = self.logits()
        token = int(logits.argmax())
        if not np.isfinite(logits[token]):
            raise ScoreEdgeError("the model's output is not finite", "reset it; if it comes back, the file is bad")
        return token

    def _piece(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = int(self._llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, False))
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def _append_ids(self, ids: Int32) -> None:
        # One position per text token on M-RoPE too: llama.cpp spreads it over the sections itself.
        end = self._here.position + len(ids)
        self._prefill(ids, np.arange(self._here.position, end, dtype=np.int32), end)

    def _prefill(self, content: Int32 | Float32, positions: Int32, end: int) -> None:
        """Run content through the model in chunks; on failure the sequence is as it was before.

        Args:
            content: (n,) int32 token ids, or (n, D) float32 embedding rows.
            positions: (n,) int32, or (4, n) int32 for rows on M-RoPE.
            end: the position behind all of it.
        """
        self._require_open()
        is_text, n = content.ndim == 1, len(content)
        after = Mark(end, self._here.cells + n, self._here.video)
        if after.cells > self._capabilities.context:
            raise self._full(after)
        for first in range(0, n, self._batch):
            last = min(first + self._batch, n)
            outputs = np.zeros(last - first, np.int8)
            outputs[-1] = is_text and last == n
            # Section-major within the chunk: the interleaved order is accepted too, and wrong.
            places = np.ascontiguousarray(positions[..., first:last])
            if code := decode(self._handle, content[first:last], places, outputs):
                refused = ScoreEdgeError(f"llama.cpp refused tokens {first} to {last} of {n}, code {code}{reason()}")
                self._forget_after(self._here)
                raise self._full(after) if code == CONTEXT_FULL else refused
        self._here = after
        if n:
            self._logits = self._read_logits() if is_text else None

    def _read_logits(self) -> Float32:
        row = self._llama.llama_get_logits_ith(self._handle, -1)
        # A copy: the next batch overwrites it.
        logits: Float32 = np.ctypeslib.as_array(row, (self._vocab_size,)).copy()
        return logits

    def _forget_after(self, mark: Mark) -> None:
        # On M-RoPE llama.cpp files a cell under its t, and every t before a mark is below the mark's position.
        if not self._llama.llama_memory_seq_rm(self._memory, 0, mark.position, -1):
            raise ScoreEdgeError("this model cannot forget part of a sequence", "reset it and append the video again")

    def _full(self, after: Mark) -> ScoreEdgeError:
        return ScoreEdgeError(
            f"the context of {self._capabilities.context} tokens is full: {after.cells} are needed",
            "keep fewer visual tokens (a lower retention) or open the model with a larger context",
        )

    def _require_open(self) -> None:
        if not self._free.alive:
            raise RuntimeError("this model is closed")


def _free(llama: ModuleType, model: Any, handle: Any) -> None:
    llama.llama_free(handle)
    llama.llama_model_free(model)


def _cell_bytes(llama: ModuleType, model: Any, size: int) -> int | None:
    """Bytes of one token's keys and values; None for models whose layers keep a state instead."""
    if llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model):
        return None
    heads, layers = llama.llama_model_n_head_kv(model), llama.llama_model_n_layer(model)
    usual = llama.llama_model_n_embd(model) // llama.llama_model_n_head(model)
    architecture = _metadata(llama, model, "general.architecture")
    # Qwen3's heads are wider than an equal share of the embedding; the file then says so.
    key, value = (
        int(_metadata(llama, model, f"{architecture}.attention.{part}_length") or usual) for part in ("key", "value")
    )
    return int(layers * heads * (key + value) * size)


def _metadata(llama: ModuleType, model: Any, key: str) -> str:
    """A value of the GGUF's header as text; empty where it is absent."""
    buffer = ctypes.create_string_buffer(128)
    written = llama.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if written > 0 else ""


def _check_rows(rows: Float32, width: int) -> None:
    """Refuse rows llama.cpp would read beyond, and the NaN or infinity that would stay in its cache."""
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ScoreEdgeError(
            f"embedding rows of shape {rows.shape}, but the language model takes rows of {width}",
            "the encoder and the language model do not belong together",
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ScoreEdgeError(
            f"{(~finite).sum()} of {len(rows)} visual tokens are not finite, the first is token {finite.argmin()}",
            "the encoder overflows: run it in FP32 or calibrate it again",
        )


def _check_positions(kept: KeptTokens) -> None:
    """Refuse positions outside the grid, repeated or out of order: attention would see the wrong neighbours."""
    shape = (kept.steps, kept.grid.height, kept.grid.width)
    positions = kept.positions
    if positions.shape != (kept.kept, 3) or (positions < 0).any() or (positions >= shape).any():
        raise ScoreEdgeError(f"positions of visual tokens outside their grid of {shape} (steps, height, width)")
    if (np.diff(np.ravel_multi_index(tuple(positions.T), shape)) <= 0).any():
        raise ScoreEdgeError("visual tokens go backwards: steps in time order, each in raster order, are required")
