"""The encoder gate: a step whose pixels hardly changed is not encoded again, its tokens are those of the last time."""

import numpy as np

from score_edge.core import Grid, Uint8
from score_edge.errors import require


class EncoderGate:
    """Compares each step with the *last encoded* one, so that slow drift adds up until it is encoded.

    Args:
        threshold: a step passes for unchanged while no token's cell changed by more than this, as the mean absolute
            difference of its pixels in grey levels (0..255). 0 lets pass only what did not change at all.
        grid: visual tokens of one step.

    Example:
        >>> gate = EncoderGate(1.5, Grid(6, 6))
        >>> gate.unchanged(pixels)                                # doctest: +SKIP
        False
        >>> gate.unchanged(pixels)                                # doctest: +SKIP
        True
    """

    def __init__(self, threshold: float, grid: Grid) -> None:
        self.threshold = threshold
        self._grid = grid
        self._encoded: Uint8 | None = None
        self._difference: Uint8 | None = None

    def unchanged(self, pixels: Uint8) -> bool:
        """Whether the last tokens will do; if not, this step is the one that gets encoded.

        Args:
            pixels: (F, H, W, 3) uint8, what `Preprocessing.fit` returns; copied.
        """
        if self._encoded is None or self._encoded.shape != pixels.shape:
            self._encoded, self._difference = pixels.copy(), np.empty_like(pixels)
            return False
        if self._differs(pixels, self._encoded):
            np.copyto(self._encoded, pixels)
            return False
        return True

    def reset(self) -> None:
        """The next step is encoded."""
        self._encoded = None

    def _differs(self, pixels: Uint8, encoded: Uint8) -> bool:
        cv2 = require("cv2")

        # Some cell has changed at least as much as the whole picture: under a moving camera this decides, much faster.
        if cv2.norm(pixels.reshape(-1), encoded.reshape(-1), cv2.NORM_L1) > self.threshold * pixels.size:
            return True
        return pixel_change(pixels, encoded, self._grid, self._difference) > self.threshold


def pixel_change(pixels: Uint8, other: Uint8, grid: Grid, scratch: Uint8 | None = None) -> float:
    """The mean absolute difference, in grey levels, of the token's cell that changed most in any frame.

    Args:
        pixels, other: (F, H, W, 3) uint8.
        grid: visual tokens of one step.
        scratch: of the same shape, overwritten; saves an allocation.
    """
    cv2 = require("cv2")

    frames, height, width, channels = pixels.shape
    flat = (frames * height, width * channels)
    # cv2 for the difference and the sums: numpy takes ten times as long, and this runs for every frame.
    difference = np.empty_like(pixels) if scratch is None else scratch
    cv2.absdiff(pixels.reshape(flat), other.reshape(flat), dst=difference.reshape(flat))
    # Cells are as even as whole pixels allow and cover the picture to its last row: 384 pixels are not 14 x 27.
    rows = np.arange(grid.height + 1) * height // grid.height
    columns = np.arange(grid.width + 1) * width // grid.width
    # int32: exact up to 2.8 million pixels
    integral = np.asarray(cv2.integral(difference.reshape(flat)), np.int32)
    change = 0.0
    areas = np.outer(np.diff(rows), np.diff(columns)) * channels
    for frame in range(frames):
        corners = integral[(frame * height + rows)[:, None], columns * channels]
        sums = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
        change = max(change, float((sums / areas).max()))
    return change
