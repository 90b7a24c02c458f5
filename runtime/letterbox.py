"""Where a frame lies in an input of another shape: never squashed unseen, never cut."""

from typing import NamedTuple

import numpy as np

from score_edge.core import Uint8


class Place(NamedTuple):
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int


def letterbox(frame: tuple[int, int], target: tuple[int, int], token: float) -> Place:
    """The largest rectangle of the frame's own shape, in the middle of the target; the rest is padding.

    A rest of half a token or less is none: the frame is stretched over it, as models' own processors round the sides of
    a frame to whole tokens.

    Args:
        frame: (height, width).
        target: (height, width).
        token: side of a visual token in the target's pixels.
    """
    scale = min(target[0] / frame[0], target[1] / frame[1])
    height, width = max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))
    if 2 * max(target[0] - height, target[1] - width) <= token:
        return Place(0, 0, *target)
    return Place((target[0] - height) // 2, (target[1] - width) // 2, height, width)


def framed(image: Uint8, place: Place, target: tuple[int, int], colour: tuple[int, ...]) -> Uint8:
    """A picture of any size with the padding around it that `letterbox` puts into the target: a token grid fits it."""
    down, across = image.shape[0] / place.height, image.shape[1] / place.width
    whole = round(target[0] * down), round(target[1] * across)
    return padded(image, Place(round(place.top * down), round(place.left * across), *image.shape[:2]), whole, colour)


def padded(image: Uint8, place: Place, target: tuple[int, int], colour: tuple[int, ...]) -> Uint8:
    """An image of the place's size in the target: (height, width, 3) uint8; the image itself where it fills it."""
    if image.shape[:2] == target:
        return image
    whole = np.empty((*target, 3), np.uint8)
    whole[:] = colour
    whole[place.top : place.top + place.height, place.left : place.left + place.width] = image
    return whole
