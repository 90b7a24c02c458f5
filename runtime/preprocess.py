"""Frames to encoder input: antialiased resize as Pillow does it, normalisation, pixels or Qwen2-VL's patches.

A frame of another shape than the encoder's input is stretched to it, or letterboxed where the bundle says so.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.manifest import Vision
from score_edge.core import Float32, Frame, Grid, Uint8
from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.letterbox import Place, framed, letterbox, padded

Resample = Literal["bicubic", "bilinear", "lanczos", "area"]
Layout = Literal["patches", "pixels"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model wants its frames. Every frame is brought to one fixed size, because graphs have fixed shapes.

    Attributes:
        height, width: pixels of the encoder's input; multiples of patch * merge where the layout is patches.
        patch: side of a patch in pixels.
        merge: side, in patches, of the square that becomes one visual token.
        frames_per_step: frames the encoder merges into one step; 2 for Qwen, else 1.
        mean, std: per RGB channel, of intensities in 0..1.
        resample: the resizing filter.
        layout: what the encoder takes, see `prepare`.
        longest_edge: resize to this longest edge first, as SmolVLM does; None goes to height x width at once.
        letterbox: pad a frame of another shape, see `runtime/letterbox.py`; else it is stretched.

    Raises:
        ScoreEdgeError: a number is out of range or the sizes do not divide.
    """

    height: int
    width: int
    patch: int
    merge: int
    frames_per_step: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Resample = "bicubic"
    layout: Layout = "patches"
    longest_edge: int | None = None
    letterbox: bool = False

    @staticmethod
    def of(vision: Vision) -> "Preprocessing":
        """What the manifest of a bundle asks for."""
        return Preprocessing(**{field.name: getattr(vision, field.name) for field in dataclasses.fields(Preprocessing)})

    def __post_init__(self) -> None:
        for name in ("height", "width", "patch", "merge", "frames_per_step"):
            number = getattr(self, name)
            if not isinstance(number, int) or number < 1:
                raise ScoreEdgeError(f"preprocessing: {name} is {number!r}, but must be a positive whole number")
        token = self.patch * self.merge
        for name, pixels in (("height", self.height), ("width", self.width)):
            if self.layout == "patches" and pixels % token:
                fit = max(token, round(pixels / token) * token)
                raise ScoreEdgeError(
                    f"preprocessing: {name} {pixels} is not a multiple of patch * merge = {token}",
                    f"the nearest is {fit}",
                )
        if len(self.mean) != 3 or len(self.std) != 3 or not np.isfinite([*self.mean, *self.std]).all():
            raise ScoreEdgeError("preprocessing: mean and std need three finite numbers each, one per RGB channel")
        if min(self.std) <= 0:
            raise ScoreEdgeError(f"preprocessing: std is {self.std}, but must be positive")
        if self.resample not in get_args(Resample):
            known = ", ".join(get_args(Resample))
            raise ScoreEdgeError(f"preprocessing: {self.resample!r} is no resampling filter", f"one of: {known}")

    @property
    def grid(self) -> Grid:
        """The visual tokens of one step."""
        return Grid(*(-(side // self.patch // -self.merge) for side in (self.height, self.width)))

    @property
    def shape(self) -> tuple[int, int]:
        """(patches, values per patch) of what patchify returns."""
        return self.grid.tokens * self.merge**2, 3 * self.frames_per_step * self.patch**2

    def prepare(self, frames: Sequence[Frame | Uint8] | Uint8) -> dict[str, Float32]:
        """The encoder's input by name, for one step; frames as in `patchify`."""
        return self.encoder_input(self.fit(frames))

    def encoder_input(self, pixels: Uint8) -> dict[str, Float32]:
        """The same from what `fit` returned: its patches or its pixels, whatever the layout asks for."""
        return {self.layout: self._cut(pixels) if self.layout == "patches" else self._planes(pixels)}

    def patchify(self, frames: Sequence[Frame | Uint8] | Uint8) -> Float32:
        """Encoder input of one step.

        Args:
            frames: up to frames_per_step frames of any sizes, or as many images as (F, H, W, 3) uint8 RGB. If there are
                too few the last is repeated, as Qwen does.

        Returns:
            (patches, 3 * frames_per_step * patch * patch) float32. The merge * merge patches of one visual token follow
            each other, tokens are in raster order; the values of a patch are ordered channel, frame, row, column.

        Raises:
            ScoreEdgeError: no frames, more than fit into a step, or an image that is not (H, W, 3) uint8.
        """
        return self._cut(self.fit(frames))

    def fit(self, frames: Sequence[Frame | Uint8] | Uint8) -> Uint8:
        """The pixels of one step as the encoder sees them, before normalisation; frames as in `patchify`.

        Returns:
            (frames_per_step, height, width, 3) uint8 RGB.
        """
        images = [frame.image if isinstance(frame, Frame) else frame for frame in frames]
        if not 1 <= len(images) <= self.frames_per_step:
            raise ScoreEdgeError(f"{len(images)} frames do not make a step of {self.frames_per_step}")
        return self.stacked([self.resized(image) for image in images])

    def stacked(self, images: list[Uint8]) -> Uint8:
        """(frames_per_step, height, width, 3) of resized frames; the last is repeated where there are too few."""
        return np.stack(images + images[-1:] * (self.frames_per_step - len(images)))

    def resized(self, image: Uint8) -> Uint8:
        """(height, width, 3) uint8 of a frame of any size."""
        if self.longest_edge is not None:
            height, width = _longest_edge(image.shape[0], image.shape[1], self.longest_edge)
            image = resize(image, height, width, self.resample)
        if not self.letterbox:
            return resize(image, self.height, self.width, self.resample)
        _check(image)
        place = self.place(image.shape[0], image.shape[1])
        small = resize(image, place.height, place.width, self.resample)
        return padded(small, place, (self.height, self.width), self._colour)

    def place(self, height: int, width: int) -> Place:
        """Where a frame of this size lies in the encoder's input: all of it where frames are stretched."""
        target = self.height, self.width
        return letterbox((height, width), target, self.patch * self.merge) if self.letterbox else Place(0, 0, *target)

    def framed(self, frame: Frame) -> Frame:
        """A frame with the padding around it that the encoder sees, for pictures; itself where there is none."""
        place = self.place(*frame.image.shape[:2])
        if place == (0, 0, self.height, self.width):
            return frame
        return dataclasses.replace(frame, image=framed(frame.image, place, (self.height, self.width), self._colour))

    @property
    def _colour(self) -> tuple[int, ...]:
        """Of the padding: the mean, as LLaVA pads."""
        return tuple(int(255 * mean) for mean in self.mean)

    def _cut(self, pixels: Uint8) -> Float32:
        """(patches, values) float32 of (frames_per_step, height, width, 3) uint8."""
        cv2 = require("cv2")

        m, p, grid = self.merge, self.patch, self.grid
        frames, height, width = pixels.shape[:3]
        planes = np.stack(cv2.split(pixels.reshape(frames * height, width, 3)))
        # The row of a patch moves as one item: much faster than byte by byte.
        rows = planes.reshape(3, frames, grid.height, m, p, grid.width, m, p).view(f"V{p}")[..., 0]
        values = np.ascontiguousarray(rows.transpose(2, 5, 3, 6, 0, 1, 4)).view(np.uint8)
        return self._normalised(values.reshape(self.shape[0], 3, -1), (3, 1)).reshape(self.shape)

    def _planes(self, pixels: Uint8) -> Float32:
        """(frames_per_step, 3, height, width) float32 of (frames_per_step, height, width, 3) uint8."""
        return self._normalised(pixels.transpose(0, 3, 1, 2), (3, 1, 1))

    def _normalised(self, pixels: Uint8, channels: tuple[int, ...]) -> Float32:
        """(x / 255 - mean) / std as float32, in one piece; `channels` is the shape that spreads along the RGB axis."""
        mean, std = np.array(self.mean), np.array(self.std)
        values = np.ascontiguousarray(pixels) * (1 / (255 * std)).astype(np.float32).reshape(channels)
        values -= (mean / std).astype(np.float32).reshape(channels)
        return values


def _longest_edge(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size with this longest edge; SmolVLM makes the other one even."""
    if width >= height:
        other = int(longest / (width / height))
        return max(other + other % 2, 1), longest
    other = int(longest * (width / height))
    return longest, max(other + other % 2, 1)


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

    _check(image)
    if image.shape[1] != width:
        narrow = np.empty((image.shape[0], width, 3), np.uint8)
        for start in range(0, len(image), _STRIP):  # a strip at a time, or a large frame would be held twice
            # Columns first become rows: a product from the left then runs over contiguous memory.
            columns = np.asarray(cv2.transpose(image[start : start + _STRIP]), np.uint8)
            cv2.transpose(_resize_rows(columns, width, resample), dst=narrow[start : start + _STRIP])
        image = narrow
    return image if image.shape[0] == height else _resize_rows(image, height, resample)


def _check(image: Uint8) -> None:
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


@lru_cache(maxsize=64)
def _bands(source: int, target: int, resample: Resample) -> list[tuple[slice, slice, NDArray[np.float64]]]:
    """The (target, source) resampling matrix, cut into bands: target rows, the source rows they need, weights."""
    centre = (np.arange(target) + 0.5) * (source / target)
    distance = np.arange(source) + 0.5 - centre[:, None]
    weights = _KERNELS[resample](distance, max(1.0, source / target))
    weights *= _FIXED_POINT / weights.sum(axis=1, keepdims=True)
    weights = np.trunc(weights + np.copysign(0.5, weights)) / _FIXED_POINT
    bands = []
    for start in range(0, target, _BAND):
        rows = slice(start, min(start + _BAND, target))
        needed = np.flatnonzero(weights[rows].any(axis=0))
        columns = slice(int(needed[0]), int(needed[-1]) + 1)
        bands.append((rows, columns, np.ascontiguousarray(weights[rows, columns])))
    return bands


def _resize_rows(image: Uint8, target: int, resample: Resample) -> Uint8:
    source, *rest = image.shape
    flat = image.reshape(source, -1)
    resized = np.empty((target, flat.shape[1]), np.uint8)
    for rows, columns, weights in _bands(source, target, resample):
        grey = weights @ flat[columns].astype(np.float64)
        grey += 0.5
        resized[rows] = np.clip(grey, 0, 255, out=grey)
    return resized.reshape(target, *rest)
