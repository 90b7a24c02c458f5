"""llama.cpp as a language model: one GGUF file, one context, a KV cache for each of its sequences.

Not covered: models whose image tokens attend to each other (Gemma 3).
"""

import ctypes
import functools
import re
import unicodedata
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from score_edge.core import Float32, Int32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Capabilities, Question
from score_edge.runtime.language.llama_library import (
    check_cells,
    library,
    open_adapter,
    open_context,
    open_model,
    pointer,
    reason,
    system_info,
)
from score_edge.runtime.language.llama_sequence import LlamaSequence
from score_edge.runtime.language.token_rows import TokenRows
from score_edge.runtime.threads import FreeThreads, check_threads, usable_cpus
from score_edge.runtime.turns import Turns

_LEAST_CHUNK = 32
"""Tokens: fewer take as long."""


class LlamaCpp:
    """One GGUF model.

    Args:
        path: the GGUF file.
        context: tokens that fit into the KV cache of a sequence.
        sequences: how many there may be at a time.
        batch: tokens per call of llama.cpp; longer prompts are split.
        threads: CPU threads; None takes every CPU that is free, see `FreeThreads`.
        gpu_layers: layers to offload when llama.cpp was built with a GPU; -1 all, 0 none.
        cache: type of the KV cache.
        adapter: GGUF file of a LoRA that is added to the weights.

    Raises:
        ScoreEdgeError: llama-cpp-python is missing, the file is not a model llama.cpp can run, the adapter is not one
            of this model, the KV cache does not fit into memory, or there are more threads than CPUs.

    Example:
        >>> with LlamaCpp("bundle/llm.gguf") as model:  # doctest: +SKIP
        ...     sequence = model.sequence()
        ...     sequence.append("<|vision_start|>", Rows.of(kept))
        ...     video = sequence.mark()
        ...     sequence.append(Question("<|vision_end|>", "What moved?", "<|im_end|>"))
        ...     print("".join(sequence.generate(32)))
        ...     sequence.rollback(video)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context: int = 4096,
        sequences: int = 1,
        batch: int = 512,
        threads: int | None = None,
        gpu_layers: int = -1,
        cache: Literal["f16", "f32"] = "f16",
        adapter: Path | None = None,
    ) -> None:
        check_threads(threads)
        # First, so that the load of others is known when the first call comes.
        self._threads = FreeThreads(usable_cpus()) if threads is None else None
        self.llama = llama = library()
        self._path = Path(path)
        model = open_model(self._path, gpu_layers)
        # A recurrent state cannot go back: such a model gets a spare place beside each sequence, see `SavedState`.
        self.spares = bool(llama.llama_model_is_hybrid(model))
        on_gpu = gpu_layers != 0 and llama.llama_supports_gpu_offload()
        cell_bytes = _cell_bytes(llama, model, 4 if cache == "f32" else 2)
        try:
            check_cells(context * sequences, None if on_gpu else cell_bytes)
            lora = None if adapter is None else open_adapter(model, adapter)
            handle = open_context(
                model,
                context=context,
                sequences=sequences,
                spares=self.spares,
                batch=batch,
                threads=threads or usable_cpus(),
                # On a CPU it makes a question over a filled cache four times slower.
                flash_attention=on_gpu,
                cache=cache,
                adapter=lora,
            )
        except ScoreEdgeError:
            llama.llama_model_free(model)
            raise
        # Also runs when the object is collected, and before the interpreter goes down.
        self._free = weakref.finalize(self, _free, llama, model, handle)
        self.handle = handle
        self.memory = llama.llama_get_memory(handle)
        self.vocab = llama.llama_model_get_vocab(model)
        self.vocab_size = int(llama.llama_vocab_n_tokens(self.vocab))
        self.batch = int(llama.llama_n_batch(handle))  # llama.cpp may have made it smaller
        self._in_use = threads or usable_cpus()
        self._sequences = sequences
        self._places = list(range(sequences))[::-1]
        self.alone = sequences == 1
        self._turn = Turns()
        self._token_s = 0.0  # a token of the last long enough call
        mrope = (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
        self._capabilities = Capabilities(
            width=int(llama.llama_model_n_embd_inp(model)),
            context=int(llama.llama_n_ctx(handle)) // sequences,
            keeps_positions=llama.llama_model_rope_type(model) in mrope,
            incremental=self.spares or not llama.llama_model_is_recurrent(model),
            cell_bytes=cell_bytes,
            trained=int(llama.llama_model_n_ctx_train(model)),
        )

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do with visual tokens."""
        return self._capabilities

    @property
    def turn(self) -> Turns:
        """Taken by each thread while it calls llama.cpp with the context."""
        return self._turn

    @property
    def chunk(self) -> int:
        """Tokens for one call, so that it does not last longer than a turn should."""
        slice_s = self._turn.slice_s
        if slice_s is None:
            return self.batch
        fitting = int(slice_s / self._token_s) if self._token_s else _LEAST_CHUNK
        return min(self.batch, max(_LEAST_CHUNK, fitting))

    def took(self, tokens: int, seconds: float) -> None:
        """A call of so many tokens took so long; for `chunk`."""
        if tokens >= _LEAST_CHUNK:
            self._token_s = seconds / tokens

    @property
    def name(self) -> str:
        """llama.cpp and what it was built with."""
        return f"llama.cpp: {system_info()}"

    def sequence(self) -> LlamaSequence:
        """A new, empty sequence.

        Raises:
            ScoreEdgeError: all places are taken.
        """
        self.require_open()
        if not self._places:
            raise ScoreEdgeError("every sequence of this model is in use", "open the model with more sequences")
        return LlamaSequence(self, self._places.pop())

    def spare_of(self, place: int) -> int:
        """The place in which a copy of a sequence is kept, where the model has `spares`."""
        return self._sequences + place

    def give_back(self, place: int) -> None:
        """Let another sequence have a place."""
        self._places.append(place)

    def close(self) -> None:
        """Free the model when nobody is inside it; nothing else may be called afterwards."""
        with self.turn:
            self._free()

    def adapt_threads(self) -> None:
        """Use as many threads as CPUs are free now, unless their number was given; before every call of llama.cpp."""
        count = self._threads.count() if self._threads else self._in_use
        if count != self._in_use:
            self.llama.llama_set_n_threads(self.handle, count, count)
            self._in_use = count

    def require_open(self) -> None:
        """Raise RuntimeError when the model was closed."""
        if not self._free.alive:
            raise RuntimeError("this model is closed")

    @functools.cached_property
    def token_rows(self) -> TokenRows | None:
        """The rows that text tokens stand for; None where only ids will do."""
        return TokenRows.open(self._path)

    def rows_of(self, text: str) -> Float32:
        """See `LanguageModel`."""
        if self.token_rows is None:
            raise ScoreEdgeError("the token table of this model cannot be read", "choose tokens without the question")
        return self.token_rows(self.plain_tokens(text), self._capabilities.width)

    def count(self, text: str) -> int:
        """How many tokens a text is, where nothing stands before it that merges with it."""
        return len(self.tokenize(text))

    def tokenize(self, text: str | Question, *, at_start: bool = False) -> Int32:
        """(n,) int32 ids.

        Args:
            text: special tokens are parsed, but not in what a question holds from outside.
            at_start: of a sequence: a BOS leads where the model asks for one.
        """
        self.require_open()
        if isinstance(text, str):
            return self._tokenize(text, at_start, special=True)
        if not self._control.search(text.text):
            return self._tokenize(text.before + text.text + text.after, at_start, special=True)
        # Words next to the question's own may be one token with them: only special tokens part them.
        *before, joint = self._control.split(text.before)
        rest, *after = self._control.split(text.after)
        pieces = [*before, joint + text.text + rest, *after]
        ids = [
            self._tokenize(piece, at_start and i == 0, special=i % 2 == 1) for i, piece in enumerate(pieces) if piece
        ]
        return np.concatenate(ids)

    def plain_tokens(self, text: str) -> Int32:
        """(n,) int32 ids of text from outside: no special token is parsed."""
        self.require_open()
        return self._tokenize(text, at_start=False, special=False)

    def _tokenize(self, text: str, at_start: bool, *, special: bool) -> Int32:
        # Qwen's tokenizer composes characters first, llama.cpp does not.
        encoded = unicodedata.normalize("NFC", text).encode("utf-8", "replace")
        at_start = at_start and not (special and encoded.startswith(self._beginning))  # chat templates have it already
        ids = np.empty(len(encoded) + 2, np.int32)
        room = pointer(ids, self.llama.llama_token)
        count = self.llama.llama_tokenize(self.vocab, encoded, len(encoded), room, len(ids), at_start, special)
        if count < 0:
            raise ScoreEdgeError(f"llama.cpp cannot tokenise a text of {len(text)} characters{reason()}")
        return ids[:count]

    @functools.cached_property
    def _beginning(self) -> tuple[bytes, ...]:
        """What a BOS is written as, if there is one."""
        token = self.llama.llama_vocab_bos(self.vocab)
        return () if token < 0 else (self.llama.llama_vocab_get_text(self.vocab, token),)

    @functools.cached_property
    def _control(self) -> re.Pattern[str]:
        """What is read as a control token, as one group: splitting by it keeps it."""
        control = self.llama.LLAMA_TOKEN_ATTR_CONTROL | self.llama.LLAMA_TOKEN_ATTR_UNKNOWN
        found = [
            self.llama.llama_vocab_get_text(self.vocab, token).decode("utf-8", "replace")
            for token in range(self.vocab_size)
            if self.llama.llama_vocab_get_attr(self.vocab, token) & control
        ]
        longest_first = sorted(filter(None, found), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _free(llama: ModuleType, model: Any, handle: Any) -> None:
    llama.llama_free(handle)
    llama.llama_model_free(model)


def _cell_bytes(llama: ModuleType, model: Any, size: int) -> int | None:
    """Bytes of one token's keys and values; None where not every layer keeps some, or not as many."""
    if llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model):
        return None
    if llama.llama_model_n_swa(model):
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
