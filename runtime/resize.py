"""Resizing bit for bit as Pillow does it, of whole pictures and of parts of them."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Uint8
from score_edge.errors import ScoreEdgeError, require

Resample = Literal["bicubic", "bilinear", "lanczos", "area"]
Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""


def resize(image: Uint8, height: int, width: int, resample: Resample = "bicubic") -> Uint8:
    """Resize bit for bit as Pillow does: antialiased, width first, rounded to 8 bits after each direction.

    cv2.resize does not antialias bicubic and bilinear, and models feel the difference. Pillow 13 goes height first
    where only the height shrinks; torchvision and the older Pillows that models were trained with never do.

    Args:
        image: (H, W, 3) uint8.
        height, width: of the result, pixels.
        resample: "bicubic", "bilinear" and "lanczos" are Pillow's; "area" averages what each pixel covers, as
            cv2.INTER_AREA.

    Raises:
        ScoreEdgeError: the image is not (H, W, 3) uint8.
    """
    cv2 = require("cv2")

    check_image(image)
    if image.shape[1] != width:
        narrow = np.empty((image.shape[0], width, 3), np.uint8)
        for start in range(0, len(image), _STRIP):  # a strip at a time, or a large frame would be held twice
            # Columns first become rows: a product from the left then runs over contiguous memory.
            columns = np.asarray(cv2.transpose(image[start : start + _STRIP]), np.uint8)
            cv2.transpose(
                _rows(columns, image.shape[1], width, resample, slice(0, width)), dst=narrow[start : start + _STRIP]
            )
        image = narrow
    if image.shape[0] == height:
        return image
    return _rows(image, image.shape[0], height, resample, slice(0, height))


def check_image(image: Uint8) -> None:
    """Raise ScoreEdgeError for anything but (H, W, 3) uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ScoreEdgeError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")


_KERNELS: Final[dict[str, Callable[[NDArray[np.float64], float], NDArray[np.float64]]]] = {
    # weight of a source pixel at a distance (in source pixels) from the centre of a target pixel `scale` wide
    "bicubic": lambda distance, scale: _cubic(np.abs(distance) / scale),
    "bilinear": lambda distance, scale: np.maximum(0.0, 1 - np.abs(distance) / scale),
    "lanczos": lambda distance, scale: _lanczos(distance / scale),
    "area": lambda distance, scale: np.clip((1 + scale) / 2 - np.abs(distance), 0.0, 1.0),
}
_BAND: Final = 8
"""Target rows per product: narrow bands skip the zeros that most of a resampling matrix is."""
_PRODUCT: Final = 1 << 18
"""Multiplications of one product: from more on OpenBLAS wakes threads, which takes longer than they save."""
_STRIP: Final = 256
"""Source rows whose columns are resized together."""
_FIXED_POINT: Final = 1 << 22
"""Pillow's weights are whole multiples of 1 / 2**22; float64 sums of them are exact, in whatever order BLAS adds."""


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -0.5."""
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A sinc, windowed by one three times as wide."""
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


def resize_part(
    image: Uint8, sizes: Sequence[Size], rows: slice, columns: slice, resample: Resample = "bicubic"
) -> Uint8:
    """A part of what resizing to one size after the other gives, at the cost of that part.

    Args:
        image: (H, W, 3) uint8.
        sizes: to which the whole image would be resized, in this order; at least one.
        rows, columns: of the last of them, in pixels; start and stop are given and not empty.
        resample: see `resize`.

    Returns:
        Those rows and columns of ``resize(... resize(image, *sizes[0]) ..., *sizes[-1])``, bit for bit.
    """
    cv2 = require("cv2")

    *before, (height, width) = sizes
    source = before[-1] if before else (image.shape[0], image.shape[1])
    above = _needed(source[0], height, resample, rows.start, rows.stop)
    beside = _needed(source[1], width, resample, columns.start, columns.stop)
    part = resize_part(image, before, above, beside, resample) if before else image[above, beside]
    if source[1] != width:
        part = np.asarray(cv2.transpose(part), np.uint8)
        part = np.asarray(cv2.transpose(_rows(part, source[1], width, resample, columns)), np.uint8)
    return part if source[0] == height else _rows(part, source[0], height, resample, rows)


@lru_cache(maxsize=1024)
def _needed(source: int, target: int, resample: Resample, start: int, stop: int) -> slice:
    """The source rows that a part of the target needs."""
    if source == target:
        return slice(start, stop)
    _, first, last = _matrix(source, target, resample)
    return slice(int(first[start:stop].min()), int(last[start:stop].max()) + 1)


def _rows(image: Uint8, source: int, target: int, resample: Resample, part: slice) -> Uint8:
    """The target rows `part`, of the source rows that they need."""
    cv2 = require("cv2")

    flat = image.reshape(len(image), -1)
    resized = np.empty((part.stop - part.start, flat.shape[1]), np.uint8)
    bands = _bands(source, target, resample, part.start, part.stop)
    above = bands[0][1].start
    small = max(_PRODUCT // max(weights.size for _, _, weights in bands), 1)
    for left in range(0, flat.shape[1], small):
        used = flat[:, left : left + small]
        grey = np.empty((len(resized), used.shape[1]))
        for rows, needed, weights in bands:
            band = used[needed.start - above : needed.stop - above]
            np.matmul(weights, band.astype(np.float64), out=grey[rows])
        # Rounds to the nearest and clips to 0..255; the shift, half of what tells two sums apart, makes halves go up.
        cv2.add(grey, 0.5 / _FIXED_POINT, dst=resized[:, left : left + small], dtype=cv2.CV_8U)
    return resized.reshape(len(resized), *image.shape[1:])


@lru_cache(maxsize=1024)
def _bands(
    source: int, target: int, resample: Resample, start: int, stop: int
) -> list[tuple[slice, slice, NDArray[np.float64]]]:
    """Some rows of the resampling matrix, in bands: which of those rows, the source rows they need, weights."""
    weights, first, last = _matrix(source, target, resample)
    bands = []
    for row in range(start, stop, _BAND):
        band = slice(row, min(row + _BAND, stop))
        needed = slice(int(first[band].min()), int(last[band].max()) + 1)
        rows = slice(band.start - start, band.stop - start)
        bands.append((rows, needed, np.ascontiguousarray(weights[band, needed])))
    return bands


@lru_cache(maxsize=16)
def _matrix(
    source: int, target: int, resample: Resample
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The (target, source) resampling matrix, and the first and last source row that each target row needs."""
    centre = (np.arange(target) + 0.5) * (source / target)
    distance = np.arange(source) + 0.5 - centre[:, None]
    weights = _KERNELS[resample](distance, max(1.0, source / target))
    weights *= _FIXED_POINT / weights.sum(axis=1, keepdims=True)
    weights = np.trunc(weights + np.copysign(0.5, weights)) / _FIXED_POINT
    used = weights != 0
    return weights, used.argmax(1), source - 1 - used[:, ::-1].argmax(1)
