"""Frames to encoder input: antialiased resize as Pillow does it, normalisation, pixels or Qwen2-VL's patches.

A frame of another shape than the encoder's input is stretched to it, or letterboxed where the bundle says so.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.manifest import Vision
from score_edge.core import Float32, Frame, Grid, Mask, Uint8
from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.changed_cells import small_picture
from score_edge.runtime.letterbox import Place, framed, letterbox, padded
from score_edge.runtime.resize import Resample, Size, check_image, resize, resize_part

Layout = Literal["patches", "pixels"]


_WHOLE = 0.6
"""Share of cells from which on the whole frame is resized faster than they are."""


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

    def of_resized(self) -> "Preprocessing":
        """The same for frames that it has resized: SmolVLM resizes twice, which would blur them anew."""
        return dataclasses.replace(self, longest_edge=None)

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

    def cell_patches(self) -> NDArray[np.int64]:
        """(N, merge * merge) the patches of each cell, in raster order, by their places in the whole grid of patches.

        A cell is what yields one visual token. Where tokens do not divide the patches evenly (LLaVA-OneVision pools 27
        of them to 14), neighbouring cells share patches.
        """
        rows, columns = (
            self._starts(side, cells)[:, None] + np.arange(self.merge)
            for side, cells in ((self.height, self.grid.height), (self.width, self.grid.width))
        )
        table: NDArray[np.int64] = rows[:, None, :, None] * (self.width // self.patch) + columns[None, :, None, :]
        return table.reshape(self.grid.tokens, -1)

    def _starts(self, side: int, cells: int) -> NDArray[np.int64]:
        """The first patch of each of the cells along a side."""
        patches = side // self.patch
        first = np.floor((np.arange(cells) + 0.5) * patches / cells - (self.merge - 1) / 2).astype(np.int64)
        return np.clip(first, 0, patches - self.merge)

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
            image = resize(image, *_longest_edge(image.shape[0], image.shape[1], self.longest_edge), self.resample)
        if not self.letterbox:
            return resize(image, self.height, self.width, self.resample)
        check_image(image)
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
        if place == self._everything:
            return frame
        return dataclasses.replace(frame, image=framed(frame.image, place, (self.height, self.width), self._colour))

    @property
    def _colour(self) -> tuple[int, ...]:
        """Of the padding: the mean, as LLaVA pads."""
        return tuple(int(255 * mean) for mean in self.mean)

    @property
    def _everything(self) -> Place:
        return Place(0, 0, self.height, self.width)

    def small_picture(self, image: Uint8) -> Uint8:
        """A frame, with its padding, as `changed_cells.small_picture`."""
        cv2 = require("cv2")

        place = self.place(*image.shape[:2])
        if place != self._everything:
            inside = cv2.resize(image, (place.width, place.height), interpolation=cv2.INTER_LINEAR)
            image = padded(np.asarray(inside, np.uint8), place, (self.height, self.width), self._colour)
        return small_picture(image, self.grid)

    def update(self, pixels: Uint8, images: Sequence[Uint8], cells: Mask) -> None:
        """Resize those parts of a step that some cells show, in place; of many cells the whole frames.

        Args:
            pixels: (frames_per_step, height, width, 3) uint8, of an earlier step.
            images: (H, W, 3) uint8 each; the last is repeated where there are too few.
            cells: (N,) bool.
        """
        whole = cells.mean() > _WHOLE
        parts = [] if whole else self._parts(cells)
        for shown, image in zip(pixels, images, strict=False):
            if whole or self.place(*image.shape[:2]) != self._everything:
                shown[...] = self.resized(image)
                continue
            sizes = self._sizes(image)
            for part in parts:
                shown[part] = resize_part(image, sizes, *part, self.resample)
        pixels[len(images) :] = pixels[len(images) - 1]

    def _parts(self, cells: Mask) -> list[tuple[slice, slice]]:
        """The rows and columns of pixels that some cells show, in rectangles."""
        rows, columns = _starts_of(self)
        return [
            (self._span(rows[top:bottom]), self._span(columns[left:right]))
            for top, bottom, left, right in rectangles(cells.reshape(self.grid.height, self.grid.width))
        ]

    def cut_cells(self, pixels: Uint8, cells: NDArray[np.int64]) -> Float32:
        """The patches of some cells.

        Args:
            pixels: (frames_per_step, height, width, 3) uint8.
            cells: (c,) their numbers, in raster order.

        Returns:
            (c, merge * merge, 3 * frames_per_step * patch * patch) float32; values as in `patchify`.
        """
        p, frames = self.patch, len(pixels)
        rows, columns = self.height // p, self.width // p
        whole = pixels[:, : rows * p, : columns * p].reshape(frames, rows, p, columns, p, 3)
        row, column = np.divmod(_table(self)[cells], columns)
        # numpy puts the axis of the fancy indices first: (c, M, frames, p, p, 3)
        values = whole[:, row, :, column].transpose(0, 1, 5, 2, 3, 4)
        apart = self._normalised(values.reshape(*row.shape, 3, frames * p * p), (3, 1))
        return apart.reshape(*row.shape, self.shape[1])

    def _span(self, starts: tuple[int, ...]) -> slice:
        """The pixels along a side that the patches of neighbouring cells show."""
        return slice(starts[0] * self.patch, (starts[-1] + self.merge) * self.patch)

    def _sizes(self, image: Uint8) -> list[Size]:
        """What a frame is resized to, in this order."""
        last = (self.height, self.width)
        if self.longest_edge is None:
            return [last]
        return [_longest_edge(image.shape[0], image.shape[1], self.longest_edge), last]

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


@lru_cache(maxsize=16)
def _table(preprocessing: Preprocessing) -> NDArray[np.int64]:
    """`cell_patches`, which every step of every source needs."""
    return preprocessing.cell_patches()


@lru_cache(maxsize=16)
def _starts_of(preprocessing: Preprocessing) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first patch of each row of cells, and of each column."""
    sides = (preprocessing.height, preprocessing.grid.height), (preprocessing.width, preprocessing.grid.width)
    rows, columns = (tuple(preprocessing._starts(*side).tolist()) for side in sides)
    return rows, columns


def rectangles(cells: Mask) -> list[tuple[int, int, int, int]]:
    """Rectangles that cover just these cells, each once: runs in a row, joined where the next row has the same.

    Args:
        cells: (gh, gw) bool.

    Returns:
        Of each: top, bottom, left, right; bottom and right are the first cell that is not in it.

    Example:
        >>> rectangles(np.array([[True, True, False], [True, True, False], [False, False, True]]))
        [(0, 2, 0, 2), (2, 3, 2, 3)]
    """
    edges = np.diff(cells.astype(np.int8), axis=1, prepend=0, append=0)
    starts, ends = np.argwhere(edges == 1).tolist(), np.argwhere(edges == -1).tolist()
    found: dict[tuple[int, int, int], tuple[int, int]] = {}  # by the row below, left and right: top and bottom
    for (row, left), (_, right) in zip(starts, ends, strict=True):
        top, _ = found.pop((row, left, right), (row, row))
        found[row + 1, left, right] = top, row + 1
    return [(top, bottom, left, right) for (_, left, right), (top, bottom) in found.items()]
