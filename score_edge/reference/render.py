"""Paint the frames of the reference world: anti-aliased things over a textured, shaking, flickering background."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from score_edge.core import Float32, Mask, Uint8
from score_edge.reference.nuisance import PAN, Nuisance

RGB = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 40),
    "purple": (165, 50, 190),
    "cyan": (50, 205, 215),
    "white": (245, 245, 245),
}
WINDOW = 20  # pixels, holds the largest thing
SHAKE = 2  # pixels of border that camera shake may uncover


class Drawable(Protocol):
    """What of a thing is painted; see `world.Thing`."""

    @property
    def shape(self) -> str: ...  # noqa: D102
    @property
    def color(self) -> str: ...  # noqa: D102
    @property
    def radius(self) -> float: ...  # noqa: D102
    @property
    def path(self) -> Float32: ...  # noqa: D102
    @property
    def visible(self) -> Mask: ...  # noqa: D102


def render(
    rng: np.random.Generator, things: Sequence[Drawable], size: int, camera: Float32, nuisance: Nuisance
) -> Uint8:
    """Paint a clip.

    Args:
        rng: of what every regime shares.
        things: where they are in the picture, the camera's way included.
        size: of the picture, pixels.
        camera: (frames, 2), how far (x, y) the background is shifted.
        nuisance: of the regime; draws from its own stream.

    Returns:
        (frames, size, size, 3) uint8 RGB.
    """
    frames = len(camera)
    shake = np.zeros((frames, 2), np.int64)
    if rng.random() < 0.5:
        shake = np.clip(np.cumsum(rng.integers(-1, 2, (frames, 2)), axis=0), -1, 1)
    video = _background(rng, frames, size, shake, SHAKE)
    if camera.any():  # the first drew the same numbers as in every regime
        video = _background(nuisance.rng, frames, size, shake + camera[:, ::-1].astype(np.int64), SHAKE + PAN)
    nuisance.behind(video)
    for thing in things:
        _draw(video, thing, shake, float(rng.uniform(0.85, 1.0)))
    if rng.random() < 0.3:  # the camera's exposure hunts
        video *= rng.uniform(0.96, 1.04, (frames, 1, 1, 1)).astype(np.float32)
    nuisance.in_front(video)
    noise = rng.standard_normal((size + 32, size + 32, 1), np.float32) * np.float32(rng.uniform(1.0, 4.0))
    for image, (y, x) in zip(video, rng.integers(0, 32, (frames, 2)), strict=True):
        image += noise[y : y + size, x : x + size]
    return np.clip(video, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator, frames: int, size: int, shake: np.ndarray, border: int) -> Float32:
    """A muted texture, shaken; over it, half the time each, a flickering lamp and a scrolling texture."""
    full = size + 2 * border
    coarse = (
        rng.standard_normal((7, 7, 3), np.float32) * np.float32(11)
        + rng.uniform(75, 135)
        + rng.uniform(-18, 18, 3).astype(np.float32)
    )
    fine = rng.standard_normal((full // 4 + 1, full // 4 + 1, 1), np.float32) * 7
    canvas = _smooth(coarse, full) + np.kron(fine, np.ones((4, 4, 1), np.float32))[:full, :full]
    video = np.stack([canvas[border - y :, border - x :][:size, :size] for y, x in shake]).astype(np.float32)
    if rng.random() < 0.5:
        (y, x), (h, w) = rng.integers(0, size - 28, 2), rng.integers(14, 28, 2)
        video[:, y : y + h, x : x + w] += rng.uniform(-35, 35, (frames, 1, 1, 1)).astype(np.float32)
    if rng.random() < 0.5:
        (y, x), (h, w) = rng.integers(0, size - 36, 2), rng.integers(20, 36, 2)
        phase = np.arange(frames)[:, None, None] * rng.uniform(0.5, 1.5)
        slope = rng.uniform(-0.6, 0.6, 2)
        rows, columns = np.mgrid[:h, :w]
        stripes = np.sin(rows * slope[0] + columns * slope[1] + phase) * rng.uniform(10, 25)
        video[:, y : y + h, x : x + w] += stripes[..., None].astype(np.float32)
    return video


def _smooth(coarse: Float32, size: int) -> Float32:
    """Bilinear enlargement of a (k, k, 3) grid to (size, size, 3)."""
    at = np.linspace(0, len(coarse) - 1.001, size)
    low = at.astype(np.int64)
    share = (at - low).astype(np.float32)[:, None, None]
    rows = coarse[low] * (1 - share) + coarse[low + 1] * share
    share = share.transpose(1, 0, 2)
    return np.asarray(rows[:, low] * (1 - share) + rows[:, low + 1] * share, np.float32)


def _draw(video: Float32, thing: Drawable, shake: np.ndarray, brightness: float) -> None:
    """Blend a thing into the frames where it is visible."""
    shown = np.flatnonzero(thing.visible)
    centre = thing.path[shown] + shake[shown][:, ::-1]
    corner = np.floor(centre).astype(np.int64) - WINDOW // 2
    ticks = np.arange(WINDOW, dtype=np.float32)
    dx = ticks[None, None, :] + (corner - centre)[:, 0, None, None]
    dy = ticks[None, :, None] + (corner - centre)[:, 1, None, None]
    alpha = np.clip(_distance(thing.shape, dx, dy, thing.radius) + 0.5, 0, 1).astype(np.float32)[..., None]
    color = np.array(RGB[thing.color], np.float32) * brightness
    for i, frame in enumerate(shown):
        x, y = corner[i]
        left, top = max(-x, 0), max(-y, 0)  # a panning camera may cut a thing off
        patch = video[frame, y + top : y + WINDOW, x + left : x + WINDOW]
        patch += alpha[i, top : top + patch.shape[0], left : left + patch.shape[1]] * (color - patch)


def _distance(shape: str, dx: NDArray[Any], dy: NDArray[Any], radius: float) -> NDArray[Any]:
    """Signed distance in pixels to the edge of a shape, positive inside."""
    ax, ay = np.abs(dx), np.abs(dy)
    reach = np.sqrt(dx * dx + dy * dy)
    inside: dict[str, Callable[[], NDArray[Any]]] = {
        "circle": lambda: radius - reach,
        "square": lambda: radius * 0.85 - np.maximum(ax, ay),
        "triangle": lambda: np.minimum(radius * 0.8 - dy, (dy + radius) * 0.49 - ax * 0.87),
        "cross": lambda: radius * 0.95 - np.maximum(ax, ay) + np.minimum(0, radius * 0.32 - np.minimum(ax, ay)),
        "ring": lambda: radius * 0.26 - np.abs(reach - radius * 0.72),
    }
    return inside[shape]()
