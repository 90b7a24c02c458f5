"""One sequence of a llama.cpp model.

On several wrong inputs llama.cpp aborts the process or computes something else instead of returning an error. Each of
them is refused here before the call.
"""

import codecs
import ctypes
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Int32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import ContextFullError, Mark, Rows, Segment
from score_edge.runtime.language.llama_library import decode, reason
from score_edge.runtime.language.llama_sampler import LlamaSampler
from score_edge.runtime.language.sampling import GREEDY, Ended, GrammarText, Sampling, StopTexts
from score_edge.runtime.language.saved_state import SavedState

if TYPE_CHECKING:
    from score_edge.runtime.language.llama_cpp import LlamaCpp

CONTEXT_FULL = 1
_Run: TypeAlias = tuple[Int32 | Float32, Int32]
"""Ids (n,) or rows (n, D), and their positions: (n,), or (4, n) for rows on M-RoPE."""


class LlamaSequence:
    """A place in a `LlamaCpp` model; see `Sequence`. Each may have its own thread: calls of llama.cpp take turns."""

    def __init__(self, model: "LlamaCpp", place: int) -> None:
        self.model, self._place = model, place
        self._llama = model.llama
        self._keeps_positions = model.capabilities.keeps_positions
        self._here = Mark(position=0, cells=0)
        self._logits: Float32 | None = None
        self._saved = SavedState(self._llama, model.memory, place, model.spare_of(place)) if model.spares else None

    def append(self, *segments: Segment) -> None:
        """Prefill segments: text and rows go through llama.cpp together where the model's token table can be read.

        Raises:
            ScoreEdgeError: rows of a wrong width, not finite or out of order; a full context.
        """
        runs, after = self._lay_out(segments)
        self._prefill(runs, after, outputs=1 if segments and not isinstance(segments[-1], Rows) else 0)

    @property
    def here(self) -> Mark:
        """Where the sequence ends now."""
        return self._here

    def mark(self) -> Mark:
        """`here`, to go back to."""
        if self._saved:
            self._saved.want(self._here)
        return self._here

    def rollback(self, mark: Mark) -> None:
        """Forget everything behind a mark."""
        self.model.require_open()
        if mark.position > self._here.position or mark.cells > self._here.cells:
            raise ScoreEdgeError("this mark lies ahead of the sequence", "mark again after clear() or rollback()")
        if mark != self._here:
            self._remove_behind(mark)
            self._here, self._logits = mark, None

    def clear(self) -> None:
        """Forget everything."""
        self.model.require_open()
        with self.model.turn:
            if self.model.alone:
                # With data: what is not finite stays in a freed cell, and attention multiplies it by zero.
                self._llama.llama_memory_clear(self.model.memory, True)
            else:
                self._llama.llama_memory_seq_rm(self.model.memory, self._place, -1, -1)
            if self._saved:
                self._saved.drop()
        self._here, self._logits = Mark(position=0, cells=0), None

    def close(self) -> None:
        """Give the place back; nothing else may be called afterwards."""
        self.clear()
        self.model.give_back(self._place)

    def forget(self, start: int, end: int, cells: int) -> bool:
        """Drop the positions from `start` to `end`; on plain RoPE what stays moves up, on M-RoPE there is a gap."""
        self.model.require_open()
        here, llama, memory = self._here, self._llama, self.model.memory
        # llama.cpp aborts when asked to shift what cannot be shifted, M-RoPE among it.
        if not self._keeps_positions and not llama.llama_memory_can_shift(memory):
            return False
        if cells and self._saved:
            return False
        moved = 0
        with self.model.turn:
            if cells and not llama.llama_memory_seq_rm(memory, self._place, start, end):
                return False
            if cells and not self._keeps_positions:
                llama.llama_memory_seq_add(memory, self._place, end, -1, -cells)
                moved = cells
        self._here = Mark(here.position - moved, here.cells - cells, here.block, here.end - moved)
        self._logits = None
        return True

    def logits(self) -> Float32:
        """(V,) float32 logits of the next token, when text was appended last."""
        if self._logits is None:
            raise ScoreEdgeError("there is nothing to continue from", "append text first, after the visual tokens")
        return self._logits

    def generate(self, max_tokens: int, sampling: Sampling = GREEDY) -> Generator[str, None, Ended]:
        """An answer, piece by piece, until an end-of-generation token, a stop text or max_tokens.

        What ends the answer is not appended to the sequence: neither the end token nor the last of max_tokens.
        """
        # A character may span several tokens.
        decoder = GrammarText() if sampling.grammar else codecs.getincrementaldecoder("utf-8")("replace")
        sampler = LlamaSampler(self.model.vocab, self.model.vocab_size, sampling)
        stop = StopTexts(sampling.stop)
        token: int | None = None
        count, ended, prompt = 0, False, self._here.cells
        while count < max_tokens and not ended:
            if token is not None:
                self._append_ids(np.array([token], np.int32), 1)
            token = sampler.draw(self.logits())
            count += 1
            ended = bool(self._llama.llama_vocab_is_eog(self.model.vocab, token))
            piece = "" if ended else stop.feed(decoder.decode(self._piece(token)))
            if piece:
                yield piece
            ended = ended or stop.found
        if not stop.found and (rest := stop.feed(decoder.decode(b"", True)) + stop.rest()):
            yield rest
        return Ended(count, "stop" if ended else "length", prompt)

    def score(self, answer: str, *given: Segment) -> Float32:
        """(n,) float32 log-probabilities of an answer's tokens; the sequence stays as it is."""
        here = self.mark()
        ids = self.model.plain_tokens(answer)
        try:
            *first, last = given or ("",)
            if isinstance(last, Rows):
                raise ScoreEdgeError("an answer cannot follow visual tokens", "give the question's text in between")
            if first:
                self.append(*first)
            asked = self.model.tokenize(last, at_start=self._here.cells == 0)
            if len(asked):
                logits = self._append_ids(np.concatenate([asked, ids[:-1]]), len(ids))
            else:
                logits = np.concatenate([self.logits()[None], self._append_ids(ids[:-1], len(ids) - 1)])
        finally:
            self.rollback(here)
        logits = logits - logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(ids)), ids]
        return np.asarray(chosen - np.log(np.exp(logits).sum(axis=1)), np.float32)

    def _piece(self, token: int) -> bytes:
        """The bytes a token stands for; none for special tokens."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            written = int(self._llama.llama_token_to_piece(self.model.vocab, token, buffer, size, 0, False))
            if written >= 0:
                return buffer.raw[:written]
            size = -written

    def _append_ids(self, ids: Int32, outputs: int) -> Float32:
        # One position per text token on M-RoPE too: llama.cpp spreads it over the sections itself.
        here = self._here
        end = here.position + len(ids)
        positions = np.arange(here.position, end, dtype=np.int32)
        return self._prefill([(ids, positions)], Mark(end, here.cells + len(ids), here.block, end), outputs)

    def _lay_out(self, segments: tuple[Segment, ...]) -> tuple[list[_Run], Mark]:
        """Ids, rows and their positions, in as few runs as go through llama.cpp in a call each; where they end."""
        here, runs = self._here, list[_Run]()
        for segment in segments:
            if isinstance(segment, Rows):
                rows = np.ascontiguousarray(segment.embeddings, np.float32)
                _check_rows(rows, self.model.capabilities.width)
                _check_places(segment)
                start = here.block if segment.continues else here.position
                if self._keeps_positions:
                    positions: Int32 = np.zeros((4, len(rows)), np.int32)  # t | h | w | unused
                    positions[:3] = start + segment.places.T
                    behind = max(here.position, start + segment.extent)
                    end = start + int(segment.places[:, 0].max(initial=-1)) + 1
                else:
                    behind = end = here.position + len(rows)
                    positions = np.arange(here.position, end, dtype=np.int32)
                here = Mark(behind, here.cells + len(rows), start, max(here.end, end))
                runs.append((rows, positions))
            else:
                ids = self.model.tokenize(segment, at_start=here.cells == 0)
                end = here.position + len(ids)
                runs.append((ids, np.arange(here.position, end, dtype=np.int32)))
                here = Mark(end, here.cells + len(ids), here.block, end if len(ids) else here.end)
        runs = [run for run in runs if len(run[0])]
        return self._merged(runs) if len(runs) > 1 else runs, here

    def _merged(self, runs: list[_Run]) -> list[_Run]:
        """One run of rows in place of several of both kinds; as they are where ids have no rows."""
        table = self.model.token_rows
        if table is None:
            return runs
        width = self.model.capabilities.width
        contents, places = list[Float32](), list[Int32]()
        for content, positions in runs:
            is_text = content.ndim == 1
            contents.append(table(np.asarray(content, np.int32), width) if is_text else np.asarray(content, np.float32))
            if self._keeps_positions and positions.ndim == 1:
                positions = np.stack([*[positions] * 3, np.zeros_like(positions)])
            places.append(positions)
        return [(np.concatenate(contents), np.concatenate(places, axis=-1))]

    def _prefill(self, runs: list[_Run], after: Mark, outputs: int) -> Float32:
        """Run content through the model in chunks; on failure the sequence is as it was before, or empty where it
        cannot go back there.

        Args:
            runs: from `_lay_out`.
            after: where the sequence will end.
            outputs: of how many tokens at the end the logits are wanted.

        Returns:
            (outputs, V) float32.
        """
        self.model.require_open()
        if after.cells > self.model.capabilities.context:
            raise self._full(after)
        if self._saved:
            with self.model.turn:
                self._saved.keep(self._here)
        wanted = list[Float32]()
        left = sum(len(content) for content, _ in runs)
        for content, positions in runs:
            last = 0
            while last < len(content):
                first, last = last, min(last + self.model.chunk, len(content))
                count = last - first
                flags = np.zeros(count, np.int8)
                flags[max(0, left - outputs) :] = 1
                left -= count
                # Section-major within the chunk: the interleaved order is accepted too, and wrong.
                places = np.ascontiguousarray(positions[..., first:last])
                with self.model.turn:
                    self.model.require_open()  # it may be closed between two chunks
                    self.model.adapt_threads()
                    began = time.perf_counter()
                    if code := decode(self.model.handle, content[first:last], places, flags, self._place):
                        said = f"llama.cpp refused tokens {first} to {last} of {len(content)}, code {code}{reason()}"
                        refused = self._full(after) if code == CONTEXT_FULL else ScoreEdgeError(said)
                        try:
                            self._remove_behind(self._here)
                        except ScoreEdgeError as emptied:
                            raise refused from emptied
                        raise refused
                    wanted += [self._read_logits(i) for i in np.flatnonzero(flags)]  # waits for a GPU
                    self.model.took(count, time.perf_counter() - began)
        if runs:
            self._logits = wanted[-1] if wanted else None
        self._here = after
        return np.stack(wanted) if wanted else np.zeros((0, self.model.vocab_size), np.float32)

    def _read_logits(self, token: np.intp) -> Float32:
        row = self._llama.llama_get_logits_ith(self.model.handle, int(token))
        # A copy: the next batch overwrites it.
        logits: Float32 = np.ctypeslib.as_array(row, (self.model.vocab_size,)).copy()
        return logits

    def _remove_behind(self, mark: Mark) -> None:
        if self._saved and mark.cells:
            with self.model.turn:
                restored = self._saved.restore(mark)
            if not restored:
                self.clear()
                raise ScoreEdgeError(
                    "this model goes back only to where it was marked last; the sequence is empty now",
                    "mark before what is to be forgotten, and append the video again",
                )
            return
        # On M-RoPE llama.cpp files a cell under its t, which lies before the position where text goes on.
        with self.model.turn:
            removed = self._llama.llama_memory_seq_rm(self.model.memory, self._place, mark.end, -1)
        if not removed:
            raise ScoreEdgeError("this model cannot forget part of a sequence", "clear it and append the video again")

    def _full(self, after: Mark) -> ContextFullError:
        return ContextFullError(
            f"the context of {self.model.capabilities.context} tokens is full: {after.cells} are needed",
            "keep fewer visual tokens (a lower retention) or open the model with a larger context",
        )


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


def _check_places(rows: Rows) -> None:
    """Refuse places outside the block, repeated or out of order: attention would see the wrong neighbours."""
    places: NDArray[np.int32] = rows.places
    if places.shape != (len(rows), 3) or (places < 0).any() or (places >= rows.extent).any():
        raise ScoreEdgeError(f"places of {len(rows)} visual tokens outside their block of {rows.extent} positions")
    if (np.diff(np.ravel_multi_index(tuple(places.T), (rows.extent,) * 3)) <= 0).any():
        raise ScoreEdgeError("visual tokens go backwards: steps in time order, each in raster order, are required")
