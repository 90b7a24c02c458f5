"""llama.cpp's sampler chain over logits that lie in numpy's memory: penalties, grammar, top-p, temperature, a draw."""

import ctypes
import secrets
import weakref
from types import ModuleType
from typing import Any

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.llama_library import clear_log, library, reason
from score_edge.runtime.language.sampling import Sampling

_PENALISED = 64  # newest tokens of the answer
_ROW = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class LlamaSampler:
    """Draws the tokens of one answer.

    Args:
        vocab: llama.cpp's.
        size: V, tokens of the vocabulary.
        sampling: how to draw.

    Raises:
        ScoreEdgeError: llama.cpp cannot read the grammar.
    """

    def __init__(self, vocab: Any, size: int, sampling: Sampling) -> None:
        self._llama = llama = library()
        self._grammar = self._read_grammar(vocab, sampling.grammar) if sampling.grammar else None
        self._chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        self._free = weakref.finalize(self, _free, llama, self._chain, self._grammar)
        links = []
        if sampling.repeat_penalty != 1:
            links.append(llama.llama_sampler_init_penalties(size, _PENALISED, sampling.repeat_penalty, 0.0, 0.0))
        if sampling.temperature == 0:
            links.append(llama.llama_sampler_init_greedy())
        else:
            seed = secrets.randbits(32) if sampling.seed is None else sampling.seed & 0xFFFFFFFF
            links += [
                llama.llama_sampler_init_top_p(sampling.top_p, 1),
                llama.llama_sampler_init_temp(sampling.temperature),
                llama.llama_sampler_init_dist(seed),
            ]
        for link in links:
            llama.llama_sampler_chain_add(self._chain, link)
        self._ids = np.arange(size, dtype=np.int32)

    def draw(self, logits: Float32) -> int:
        """The next token.

        Args:
            logits: (V,) float32.

        Raises:
            ScoreEdgeError: the logits are not finite, or no token can follow in the grammar.
        """
        if not np.isfinite(logits.max()):
            raise ScoreEdgeError("the model's output is not finite", "clear it; if it comes back, the file is bad")
        token = self._apply(self._rows(self._ids, logits), self._chain)
        if self._grammar is not None:
            # A grammar over a whole vocabulary is slow: most tokens that are drawn without it follow it anyway.
            alone = self._rows(np.array([token], np.int32), np.zeros(1, np.float32))
            self._apply(alone, self._grammar)
            if np.isneginf(alone["logit"][0]):
                rows = self._rows(self._ids, logits)
                self._apply(rows, self._grammar)
                if np.isneginf(rows["logit"]).all():
                    raise ScoreEdgeError("no token can follow in this grammar", "give a simpler schema")
                token = self._apply(rows[~np.isneginf(rows["logit"])], self._chain)
            # A token that does not follow would end the process here.
            self._llama.llama_sampler_accept(self._grammar, token)
        self._llama.llama_sampler_accept(self._chain, token)
        return token

    def _rows(self, ids: Any, logits: Float32) -> Any:
        rows = np.zeros(len(ids), _ROW)
        rows["id"], rows["logit"] = ids, logits
        return rows

    def _apply(self, rows: Any, sampler: Any) -> int:
        """Run a sampler over the rows, in place; the token it chose, -1 where it chooses none."""
        llama = self._llama
        array = llama.llama_token_data_array()
        array.data = rows.ctypes.data_as(ctypes.POINTER(llama.llama_token_data))
        array.size, array.selected, array.sorted = len(rows), -1, False
        llama.llama_sampler_apply(sampler, ctypes.byref(array))
        return int(array.data[array.selected].id) if array.selected >= 0 else -1

    def _read_grammar(self, vocab: Any, text: str) -> Any:
        clear_log()
        grammar = self._llama.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        if not grammar:
            raise ScoreEdgeError(f"llama.cpp cannot read the grammar{reason()}", "see llama.cpp's grammars/README.md")
        return grammar


def _free(llama: ModuleType, chain: Any, grammar: Any) -> None:
    llama.llama_sampler_free(chain)
    if grammar is not None:
        llama.llama_sampler_free(grammar)
