"""How far two runs of the same graph are from each other: what export, build and calibration prove themselves with."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from score_edge.core import Float32


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an output is from its reference.

    Attributes:
        largest, mean: absolute difference.
        relative: the largest over the largest value of the reference.
        cosine: of the worst row.
        data: what was put in.
    """

    output: str
    largest: float
    mean: float
    relative: float
    cosine: float
    data: str = "random"


def compare_outputs(output: str, expected: Float32, found: Float32, data: str = "random") -> Difference:
    """Measure how far `found` is from `expected`, row by row.

    Args:
        output: name of both.
        expected: (..., D) the reference.
        found: the same shape.
        data: what was put in.

    Example:
        >>> compare_outputs("tokens", np.ones((2, 4), np.float32), np.ones((2, 4), np.float32)).relative
        0.0
    """
    rows, others = (np.atleast_2d(array).astype(np.float64) for array in (expected, found))
    norms = np.linalg.norm(rows, axis=-1) * np.linalg.norm(others, axis=-1)
    cosine = (rows * others).sum(axis=-1) / np.maximum(norms, 1e-30)
    apart = np.abs(rows - others)
    relative = float(apart.max()) / max(float(np.abs(rows).max()), 1e-30)
    return Difference(output, float(apart.max()), float(apart.mean()), relative, float(cosine.min()), data)


def worst(rows: Iterable[Difference]) -> Difference:
    """The row that is furthest from its reference; one that is no number is further than any."""
    return max(rows, key=lambda row: math.inf if math.isnan(row.relative) else row.relative)
