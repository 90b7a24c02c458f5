"""What else moves in the reference world: large changes without end that no question is ever about.

A regime adds one of them to a clip, "mixed" two at a little over half their strength. It draws from a stream of its
own, so that a clip of any regime shows the same things and is asked the same questions as the plain clip of its number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from score_edge.core import Float32
from score_edge.errors import ScoreEdgeError, did_you_mean

SINGLE = ("leaves", "texture", "screen", "rain", "pan", "traffic", "lights")
REGIMES = ("plain", *SINGLE, "mixed")
BLOB = 6  # pixels, side of a leaf, of a tile of a texture or of a picture on a screen
PAN = 4  # pixels the camera turns at most, either way
MIXED = 0.55  # strength of each where there are two


def read_regimes(text: str) -> tuple[str, ...]:
    """Comma-separated regimes, or "all".

    Raises:
        ScoreEdgeError: there is no such regime.
    """
    names = REGIMES if text == "all" else tuple(text.split(","))
    for name in names:
        if name not in REGIMES:
            raise ScoreEdgeError(f"there is no world {name!r}", did_you_mean(name, (*REGIMES, "all")))
    return names


@dataclass(frozen=True, slots=True)
class Nuisance:
    """What a regime does to one clip.

    Attributes:
        kinds: of SINGLE, none for "plain".
        rng: where all of it is drawn from.
        strength: 1 where there is one kind alone.
    """

    kinds: tuple[str, ...]
    rng: np.random.Generator
    strength: float = 1.0

    @staticmethod
    def of(regime: str, *key: int) -> "Nuisance":
        """The nuisance of the clip with this key.

        Args:
            regime: one of REGIMES.
            key: whatever tells the clip from others.
        """
        rng = np.random.default_rng((*key, REGIMES.index(regime)))
        if regime == "mixed":
            return Nuisance(tuple(str(kind) for kind in rng.choice(SINGLE, 2, replace=False)), rng, MIXED)
        return Nuisance(() if regime == "plain" else (regime,), rng)

    def camera(self, frames: int) -> Float32:
        """(frames, 2) whole pixels (x, y) that everything in the picture is shifted by."""
        if "pan" not in self.kinds:
            return np.zeros((frames, 2), np.float32)
        reach = self.rng.uniform(0.5, 1.0, 2) * PAN * self.strength
        turn = 2 * np.pi / self.rng.uniform(24, 48, 2)
        return np.rint(reach * np.sin(np.arange(frames)[:, None] * turn + self.rng.uniform(0, 2 * np.pi, 2))).astype(
            np.float32
        )

    def behind(self, video: Float32) -> None:
        """Change the background of (F, size, size, 3), before things are drawn."""
        for kind in self.kinds:
            if kind in _BEHIND:
                _BEHIND[kind](self.rng, video, np.float32(self.strength))

    def in_front(self, video: Float32) -> None:
        """Change the finished picture."""
        for kind in self.kinds:
            if kind in _IN_FRONT:
                _IN_FRONT[kind](self.rng, video, np.float32(self.strength))


def _leaves(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """Blobs over a share of the picture's width that sway: drawn anew each frame, with a memory."""
    frames, size = video.shape[:2]
    width = int(size * rng.uniform(0.5, 1.0))
    x = int(rng.integers(0, size - width + 1))
    fresh = rng.standard_normal((frames, size // BLOB, -(-width // BLOB)), np.float32)
    sway = np.empty_like(fresh)
    sway[0] = fresh[0]
    for i in range(1, frames):
        sway[i] = 0.6 * sway[i - 1] + 0.8 * fresh[i]
    blobs = _tiles(sway)[:, :, :width, None] * np.float32(rng.uniform(15, 28)) * strength
    video[:, :, x : x + width] += blobs * np.array([0.6, 1.0, 0.5], np.float32)


def _texture(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """A texture that runs through the whole picture, one way, for ever."""
    frames, size = video.shape[:2]
    speed, amplitude = rng.uniform(1.5, 4.0), np.float32(rng.uniform(12, 20)) * strength
    long = size + int(frames * speed) + 1
    tiles = _tiles(rng.standard_normal((1, size // BLOB, -(-long // BLOB)), np.float32))[0] * amplitude
    starts = (np.arange(frames) * speed).astype(np.int64)
    starts = starts if rng.random() < 0.5 else starts[-1] - starts
    upright = rng.random() < 0.5
    for image, start in zip(video, starts, strict=True):
        window = tiles[:, start : start + size]
        image += (window.T if upright else window)[..., None]


def _screen(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """A rectangle on which a film plays: tiles that run, and a cut every few frames."""
    frames, size = video.shape[:2]
    h, w = rng.integers(6, 10, 2) * BLOB
    y, x = int(rng.integers(0, size - h + 1)), int(rng.integers(0, size - w + 1))
    shots = np.cumsum(rng.random(frames) < 0.3)
    picture = (int(shots[-1]) + 1, h // BLOB, 2 * w // BLOB)
    film = rng.standard_normal((*picture, 1), np.float32) * 16 + rng.standard_normal((*picture, 3), np.float32) * 6
    film = film.repeat(BLOB, axis=1).repeat(BLOB, axis=2)
    runs = (np.arange(frames) * 2) % w
    for i, shot in enumerate(shots):
        video[i, y : y + h, x : x + w] += film[shot, :, runs[i] : runs[i] + w] * strength


def _traffic(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """Grey boxes that follow each other along a lane."""
    size = video.shape[1]
    y, speed = int(rng.integers(4, size - 12)), rng.uniform(3.0, 6.0) * rng.choice((-1, 1))
    every = int(rng.integers(24, 40))
    shades = rng.uniform(-45, 45, 64).astype(np.float32) * strength
    columns = np.arange(size)
    for i, image in enumerate(video):
        along = columns - round(float(i * speed))
        box = along % every < 12
        image[y : y + 7, box] += shades[along[box] // every % len(shades), None]


def _rain(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """Bright streaks, other ones in every frame."""
    frames, size = video.shape[:2]
    drops, length = int(rng.integers(25, 60)), int(rng.integers(1, 6))
    bright = np.float32(rng.uniform(25, 50)) * strength
    at = rng.integers(0, size, (frames, drops, 2))
    for fall in range(length):
        rows = (at[..., 0] + fall).clip(max=size - 1)
        video[np.arange(frames)[:, None], rows, at[..., 1]] += bright


def _lights(rng: np.random.Generator, video: Float32, strength: np.float32) -> None:
    """A light over a part of the picture, or all of it, that switches on and off."""
    frames, size = video.shape[:2]
    width = int(size * rng.uniform(0.4, 1.0))
    x = int(rng.integers(0, size - width + 1))
    on = np.cumsum(rng.random(frames) < 0.25) % 2
    video[:, :, x : x + width] *= 1 + np.float32(rng.uniform(0.15, 0.3)) * strength * (on[:, None, None, None] - 0.5)


def _tiles(grid: Float32) -> Float32:
    return np.repeat(np.repeat(grid, BLOB, axis=1), BLOB, axis=2)


_Draw = Callable[[np.random.Generator, Float32, np.float32], None]
_BEHIND: dict[str, _Draw] = {
    "leaves": _leaves,
    "texture": _texture,
    "screen": _screen,
    "traffic": _traffic,
}
_IN_FRONT: dict[str, _Draw] = {"rain": _rain, "lights": _lights}
