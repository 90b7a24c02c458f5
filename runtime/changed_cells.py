"""Which cells of a step changed since they were last encoded: decided on small pictures, before anything is resized."""

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Grid, Mask, Uint8
from score_edge.errors import require

SAMPLES = 4
"""Pixels of the small picture along a side of a cell."""
_POINTS = 4
"""Points of the frame along a side of a pixel of the small picture, each the mean of four pixels."""


def small_picture(image: Uint8, grid: Grid) -> Uint8:
    """A frame in `SAMPLES` x `SAMPLES` pixels per cell; takes the same time for every size of frame.

    A pixel is the mean of 64 of the frame's (of all, where it has fewer): most of a camera's noise is gone in it.

    Args:
        image: (H, W, 3) uint8.
        grid: cells of a step; stretched over the frame.

    Returns:
        (grid.height * SAMPLES, grid.width * SAMPLES, 3) uint8.
    """
    cv2 = require("cv2")

    width, height = grid.width * SAMPLES, grid.height * SAMPLES
    points = width * _POINTS, height * _POINTS
    if image.shape[0] > points[1] or image.shape[1] > points[0]:
        image = np.asarray(cv2.resize(image, points, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def cell_change(pictures: NDArray[np.int16], others: NDArray[np.int16], grid: Grid) -> Float32:
    """By how much each cell changed.

    Args:
        pictures, others: (F, h, w, 3) int16, small pictures of the frames of a step.
        grid: cells of a step.

    Returns:
        (gh, gw) float32: mean absolute difference in grey levels (0..255), of the frame in which it is largest.
    """
    apart = np.abs(pictures - others)
    cells = apart.reshape(len(apart), grid.height, SAMPLES, grid.width, SAMPLES * 3)
    change: Float32 = cells.mean((2, 4), dtype=np.float32).max(0)
    return change


def changed_cells(change: Float32, threshold: Float32 | float) -> Mask:
    """Cells that changed by more than their threshold, and around them those that changed by more than half of it.

    Args:
        change: (gh, gw) from `cell_change`.
        threshold: grey levels, of all cells or (gh, gw) of each.

    Returns:
        (gh, gw) bool.

    Example:
        >>> changed_cells(np.array([[9.0, 4.0, 4.0]], np.float32), 6.0)
        array([[ True,  True, False]])
    """
    changed = change > threshold
    if not changed.any():
        return changed
    halo: Mask = neighbourhood(changed) & (change > threshold / 2)
    return changed | halo


def neighbourhood(cells: Mask) -> Mask:
    """Cells of a grid (gh, gw) and the eight around each, bool.

    Example:
        >>> neighbourhood(np.array([[True, False, False]]))
        array([[ True,  True, False]])
    """
    cv2 = require("cv2")

    return np.asarray(cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8))).astype(np.bool_)
