"""The data that flows through score-edge, one frozen dataclass per arrow of docs/architecture.md.

Axes used everywhere: T steps, N visual tokens per step, D embedding width, n kept tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Uint8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        time_s: presentation time in seconds from the start of the source.
        index: running number of the frame in its source, before sampling.
        gap: the source was interrupted before this frame.
    """

    image: Uint8
    time_s: float
    index: int
    gap: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """The visual tokens of one step, in raster order: token i sits at (i // width, i % width)."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """N, the number of visual tokens per step."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """What the language model sees of a video.

    Attributes:
        embeddings: (n, D) float32, C-contiguous, raster order within a step, steps in time order.
        positions: (n, 3) int32, (t, h, w) of each token in the unpruned grid; t counts steps from 0.
        steps: T of the unpruned video.
        grid: the unpruned grid of one step.
    """

    embeddings: Float32
    positions: Int32
    steps: int
    grid: Grid

    @property
    def kept(self) -> int:
        """n, the number of kept tokens."""
        return len(self.embeddings)

    @property
    def total(self) -> int:
        """T * N, the number of visual tokens before pruning."""
        return self.steps * self.grid.tokens

    @staticmethod
    def gather(tokens: Float32, mask: Mask, grid: Grid) -> "KeptTokens":
        """Keep the rows of a clip that a budget chose.

        Args:
            tokens: (T, N, D) float32, every visual token of the clip.
            mask: (T, N) bool, True where a token is kept.
            grid: the grid the N tokens of a step lie on.
        """
        step, token = np.nonzero(mask)
        positions = np.stack([step, token // grid.width, token % grid.width], axis=1).astype(np.int32)
        return KeptTokens(np.ascontiguousarray(tokens[step, token]), positions, len(tokens), grid)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one answer went, in seconds.

    Attributes:
        read: decoding and sampling the source.
        preprocess: resizing and cutting frames into patches.
        encode: the vision encoder.
        select: residual, policy or rule, and budget.
        prefill: the language model over prompt, kept tokens and question.
        generate: the language model from the first to the last token of the answer.
        generated: tokens (pieces) of the answer; a count.
    """

    read: float
    preprocess: float
    encode: float
    select: float
    prefill: float
    generate: float
    generated: int

    @property
    def ttft(self) -> float:
        """Time to first token: everything before the answer starts."""
        return self.read + self.preprocess + self.encode + self.select + self.prefill

    @property
    def whole(self) -> float:
        """From opening the source to the last token."""
        return self.ttft + self.generate


@dataclass(frozen=True, slots=True)
class Look:
    """One prefill of a clip before an answer.

    Attributes:
        kept: visual tokens the language model saw.
        probability: of the first token of its answer.
    """

    kept: int
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        text: the generated answer without special tokens.
        kept: visual tokens the language model saw.
        total: visual tokens of the clip.
        timings: seconds per stage, of all looks.
        looks: in order, the answer is from the last; none where nobody asked how sure the model is.
    """

    text: str
    kept: int
    total: int
    timings: Timings
    looks: tuple[Look, ...] = ()


def is_cache(tensor: str) -> bool:
    """Whether an input or output of a graph is a cache of the incremental encoder, by its name."""
    return tensor.removeprefix("new_").partition(".")[0] in ("keys", "values")
