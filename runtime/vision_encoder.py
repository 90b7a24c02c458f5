"""Frames of a step to its visual tokens, at the price of what changed since the step before.

The cells that changed are encoded, the others keep their tokens. With the bundle's incremental graph their keys and
values come from a cache; without it a step is encoded as a whole, or not at all where no cell changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Frame, Mask, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.changed_cells import SAMPLES, cell_change, changed_cells, neighbourhood
from score_edge.runtime.graphs.base import CachedGraph, Graph
from score_edge.runtime.preprocess import Preprocessing
from score_edge.runtime.stopwatch import Stopwatch
from score_edge.runtime.turns import Turns

MAX_AGE = 256
"""Steps after which a cell is encoded again, changed or not; the stalest first, a few in every step."""
_HALVES = 2.0
"""Steps in which a threshold halves: what goes on changing is encoded now and then, what came to rest is soon."""
_LEAST = 0.3
"""Share of the threshold that is left of it at last."""
_CALM = 4
"""Steps without a change around a cell after which it is encoded once more, where its neighbours were encoded after it:
what it made of them is out of date. Without this a scene that comes to rest keeps such tokens for ever."""
_ALL = 0.6
"""Share of changed cells from which on all are encoded: a cut, a pan, an exposure step."""


@dataclass
class EncoderState:
    """What an encoder knows of a source: a camera, or a clip from its start. Made by `VisionEncoder.start`.

    Attributes:
        small: (F, h, w, 3) int16, of each cell what it was when it was last encoded; None: nothing was encoded yet.
        pixels: (F, height, width, 3) uint8, as `Preprocessing.fit`; true of the cells encoded last.
        tokens: (N, D) float32.
        age: (N,) steps since each cell was encoded, of those in which any was.
        due: cells to encode for their age alone.
        stirred: (gh, gw) bool, cells whose surroundings were encoded after them.
        calm: (gh, gw) steps since anything changed around each cell.
        cache: keys and values, where the graph has them.
        full: every cell is encoded in every step.
    """

    small: NDArray[np.int16] | None
    pixels: Uint8
    tokens: Float32
    age: NDArray[np.int64]
    stirred: Mask
    calm: NDArray[np.int64]
    due: float = 0.0
    cache: Any = None
    full: bool = False

    def forget(self) -> None:
        """The next step is encoded as a whole."""
        self.small = None


class VisionEncoder:
    """A bundle's vision encoder.

    Args:
        preprocessing: of the bundle.
        dim: D, floats per token.
        graph: the plain graph, or the incremental one.
        threshold: grey levels that a cell must change by to be encoded, see `cell_change`; below 0 all are, always.
        turn: taken while the graph runs; None where nobody else computes.

    Attributes:
        incremental: whether the graph encodes single cells.

    Example:
        >>> encoder = VisionEncoder(preprocessing, 192, graph, threshold=6.0)  # doctest: +SKIP
        >>> state = encoder.start()  # doctest: +SKIP
        >>> tokens, encoded = encoder.encode(frames, state, Stopwatch())  # doctest: +SKIP
    """

    def __init__(
        self, preprocessing: Preprocessing, dim: int, graph: Graph, threshold: float, turn: Turns | None = None
    ) -> None:
        self.preprocessing = preprocessing
        self.graph = graph
        self.turn = turn or Turns()
        self.threshold = threshold
        self._cached = graph if isinstance(graph, CachedGraph) and "cells" in graph.inputs else None
        self.incremental = self._cached is not None
        self._dim = dim

    def start(self, *, full: bool = False) -> EncoderState:
        """What is known of a source before its first step; with `full` every cell of every step will be encoded."""
        ours = self.preprocessing
        cells = ours.grid.tokens
        return EncoderState(
            small=None,
            pixels=np.empty((ours.frames_per_step, ours.height, ours.width, 3), np.uint8),
            tokens=np.empty((cells, self._dim), np.float32),
            age=np.zeros(cells, np.int64),
            stirred=np.zeros((ours.grid.height, ours.grid.width), np.bool_),
            calm=np.zeros((ours.grid.height, ours.grid.width), np.int64),
            cache=None if self._cached is None else self._cached.start(),
            full=full,
        )

    def encode(self, frames: Sequence[Frame | Uint8], state: EncoderState, watch: Stopwatch) -> tuple[Float32, Mask]:
        """The tokens of the next step of a source.

        Args:
            frames: of the step, as `Preprocessing.fit` takes them.
            state: of the source; brought up to date.
            watch: counts the stages ``preprocess`` and ``encode``.

        Returns:
            (N, D) float32 tokens, an array of its own, and which of the cells were encoded, (N,) bool.

        Raises:
            ScoreEdgeError: the graph failed, or its tokens are not finite; the step is then as if it had never come.
        """
        try:
            with watch.stage("preprocess"):
                images = self._images(frames)
                encoded = self._choose(images, state)
                if not encoded.any():
                    return state.tokens, encoded
                inputs = self._inputs(images, state, encoded)
            with self.turn, watch.stage("encode"):
                tokens = self._run(inputs, state)
            if not np.isfinite(tokens).all():
                raise ScoreEdgeError("visual tokens are not finite", "the encoder overflows: run it in FP32")
        except BaseException:
            state.forget()
            raise
        if encoded.all():
            state.tokens = tokens
        else:
            state.tokens = state.tokens.copy()  # whoever holds those of the last step keeps them
            state.tokens[encoded] = tokens
        state.age += 1
        state.age[encoded] = 0
        return state.tokens, encoded

    def _images(self, frames: Sequence[Frame | Uint8]) -> list[Uint8]:
        images = [frame.image if isinstance(frame, Frame) else frame for frame in frames]
        wanted = self.preprocessing.frames_per_step
        if not 1 <= len(images) <= wanted:
            raise ScoreEdgeError(f"{len(images)} frames do not make a step of {wanted}")
        return images

    def _choose(self, images: list[Uint8], state: EncoderState) -> Mask:
        """(N,) bool, the cells to encode; `state.small` is what they show now."""
        grid = self.preprocessing.grid
        every: Mask = np.ones(grid.tokens, np.bool_)
        if self.threshold < 0 or state.full:
            return every
        pictures = [self.preprocessing.small_picture(image) for image in images]
        small = self.preprocessing.stacked(pictures).astype(np.int16)
        if state.small is None:
            state.small, state.stirred[:] = small, False
            return every
        needed = self.threshold * np.maximum(0.5 ** (state.age / _HALVES), _LEAST).astype(np.float32)
        change = cell_change(small, state.small, grid)
        changed = changed_cells(change, needed.reshape(change.shape))
        if changed.any() if not self.incremental else changed.mean() > _ALL:
            state.small, state.stirred[:] = small, False
            return every
        if self.incremental:
            changed |= _settled(changed, state)
        changed = changed.reshape(-1)
        if not changed.any():
            return changed
        state.due += grid.tokens / MAX_AGE
        if state.due >= 1:
            stalest = np.argsort(np.where(changed, -1, state.age), kind="stable")[grid.tokens - int(state.due) :]
            state.due %= 1
            changed[stalest] = True
        cells = changed.reshape(grid.height, grid.width)
        state.stirred &= ~cells
        apart = len(small), grid.height, SAMPLES, grid.width, SAMPLES, 3
        np.copyto(state.small.reshape(apart), small.reshape(apart), where=cells[:, None, :, None, None])
        return changed

    def _inputs(self, images: list[Uint8], state: EncoderState, encoded: Mask) -> dict[str, NDArray[Any]]:
        self.preprocessing.update(state.pixels, images, encoded)
        if not self.incremental:
            return dict(self.preprocessing.encoder_input(state.pixels))
        cells = np.flatnonzero(encoded)
        return {"patches": self.preprocessing.cut_cells(state.pixels, cells), "cells": cells}

    def _run(self, inputs: dict[str, NDArray[Any]], state: EncoderState) -> Float32:
        if self._cached is None:
            tokens: Float32 = self.graph.run(**inputs)["tokens"]
        else:
            tokens = self._cached.run_cached(state.cache, **inputs)["tokens"]
        return tokens


def _settled(changed: Mask, state: EncoderState) -> Mask:
    """(gh, gw) bool, cells to encode once more because what is around them came to rest, see _CALM."""
    near = neighbourhood(changed)
    state.calm += 1
    state.calm[near] = 0
    state.stirred |= near
    settled: Mask = state.stirred & (state.calm >= _CALM)
    return settled
