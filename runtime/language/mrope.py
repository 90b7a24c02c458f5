"""Where tokens stand under M-RoPE: (t, h, w) of text and kept visual tokens, and the rotations that follow from it.

The rules are those of `LlamaSequence.append`: a text token advances all three by one, rows keep their place in their
block, and what follows goes on behind the whole of it, however few of its tokens were kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Int32
from score_edge.runtime.language.base import Rows

Int64 = NDArray[np.int64]


def mrope_positions(parts: Sequence[Int32 | Rows]) -> tuple[Int64, int]:
    """Positions of a sequence.

    Args:
        parts: in order, text as (n,) int32 token ids, video as rows.

    Returns:
        (3, L) int64, rows t, h, w, and the position of the next text token.

    Example:
        >>> mrope_positions([np.zeros(2, np.int32)])
        (array([[0, 1],
               [0, 1],
               [0, 1]]), 2)
    """
    start = 0
    columns: list[Int64] = [np.zeros((3, 0), np.int64)]
    for part in parts:
        if isinstance(part, Rows):
            columns.append(start + part.places.T.astype(np.int64))
            start += part.extent
        else:
            columns.append(np.broadcast_to(start + np.arange(len(part)), (3, len(part))))
            start += len(part)
    return np.concatenate(columns, axis=1), start


def plain_positions(length: int) -> tuple[Int64, int]:
    """The same for plain RoPE, where kept tokens close up: (3, L) with equal rows."""
    return np.broadcast_to(np.arange(length), (3, length)).copy(), length


def position_delta(length: int, following: int) -> Int32:
    """(1, 1) int32: what a backend that counts tokens adds to get the position of a generated one.

    Args:
        length: L, tokens of the prompt.
        following: position of the first generated token.
    """
    return np.array([[following - length]], np.int32)


def rotary_cos_sin(positions: Int64, *, head: int, theta: float, sections: Sequence[int], length: int) -> Float32:
    """Cosine and sine of every rotation, in the layout of TensorRT-LLM's engines.

    Args:
        positions: (3, L), rows t, h, w.
        head: floats per head.
        theta: base of the frequencies.
        sections: pairs of a head that turn with t, h and w; they add up to head / 2.
        length: tokens the engine's table has room for, at least L; those behind L get position 0.

    Returns:
        (1, length * head) float32: per token head / 2 pairs of (cosine, sine).
    """
    pairs = head // 2
    if sum(sections[:3]) != pairs or positions.shape[1] > length:
        raise ValueError(f"sections {list(sections)} for {pairs} pairs, {positions.shape[1]} tokens for {length}")
    axis = np.repeat(np.arange(3), sections[:3])  # (head / 2,), which of t, h, w turns a pair
    frequencies = theta ** (-np.arange(pairs, dtype=np.float64) * 2 / head)
    places = np.zeros((3, length), np.float64)
    places[:, : positions.shape[1]] = positions
    angles = places[axis].T * frequencies  # (length, head / 2)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    return table.reshape(1, -1)
