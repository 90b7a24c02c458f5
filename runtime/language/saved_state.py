"""The way back for models that cannot forget part of a sequence: a copy of it in a spare place.

Hybrid models (Qwen3.5, LFM2) have layers whose state runs along with the text. llama.cpp can drop such a state as a
whole or copy it, but not turn it back. A copy shares the cells of the attention layers and holds a recurrent state of
its own; taking one and going back to it are both exact.
"""

from types import ModuleType
from typing import Any

from score_edge.runtime.language.base import Mark


class SavedState:
    """One copy of a sequence, as it was at a mark.

    Args:
        llama: llama-cpp-python's low-level module.
        memory: of the context.
        place: the sequence.
        spare: where its copy lives; used by nobody else.
    """

    def __init__(self, llama: ModuleType, memory: Any, place: int, spare: int) -> None:
        self._llama, self._memory, self._place, self._spare = llama, memory, place, spare
        self._wanted: Mark | None = None
        self._held: Mark | None = None

    def want(self, mark: Mark) -> None:
        """Somebody may come back here: the next `keep` at this mark copies."""
        self._wanted = mark

    def keep(self, here: Mark) -> None:
        """Before more is appended: copy the sequence if somebody may come back to where it is now."""
        if here == self._wanted and here != self._held:
            self._copy(self._place, self._spare)
            self._held = here

    def restore(self, mark: Mark) -> bool:
        """Make the sequence what it was at a mark; False where no copy of that is held."""
        if mark != self._held:
            return False
        self._copy(self._spare, self._place)
        return True

    def drop(self) -> None:
        """Forget the copy."""
        self._llama.llama_memory_seq_rm(self._memory, self._spare, -1, -1)
        self._wanted = self._held = None

    def _copy(self, source: int, target: int) -> None:
        self._llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        self._llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
