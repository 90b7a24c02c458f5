"""Where frames lie in an input of another shape."""

import dataclasses

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.letterbox import letterbox
from score_edge.runtime.preprocess import Preprocessing, resize

SQUARE = Preprocessing(56, 56, 14, 2, 1, (0.5, 0.25, 0.0), (0.5, 0.5, 0.5), layout="pixels", letterbox=True)


@pytest.mark.parametrize(
    ("frame", "target", "token", "place"),
    [
        ((1080, 1920), (336, 588), 28, (0, 0, 336, 588)),  # 5 pixels short: less than half a token
        ((1080, 1920), (448, 448), 28, (98, 0, 252, 448)),
        ((480, 640), (336, 588), 28, (0, 70, 336, 448)),
        ((1920, 1080), (336, 588), 28, (0, 199, 336, 189)),
        ((7, 1000), (448, 448), 28, (222, 0, 3, 448)),
    ],
)
def test_places(frame: tuple[int, int], target: tuple[int, int], token: int, place: tuple[int, ...]) -> None:
    assert letterbox(frame, target, token) == place


def test_a_frame_keeps_its_shape_and_the_rest_is_the_mean() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    made = SQUARE.resized(image)
    assert made.shape == (56, 56, 3)
    assert np.array_equal(made[14:42], resize(image, 28, 56))
    assert (made[:14] == (127, 63, 0)).all() and (made[42:] == (127, 63, 0)).all()
    assert np.abs(SQUARE.prepare([image])["pixels"][0, :, :14]).max() < 0.01


def test_a_frame_of_the_right_shape_fills_the_input() -> None:
    image = np.random.default_rng(0).integers(0, 256, (99, 100, 3), dtype=np.uint8)
    assert np.array_equal(SQUARE.resized(image), resize(image, 56, 56))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ScoreEdgeError, match="must be \\(H, W, 3\\) uint8"):
        SQUARE.resized(np.zeros((0, 3), np.uint8))


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (50, 50)])
def test_a_framed_picture_is_what_the_encoder_sees(shape: tuple[int, int]) -> None:
    """At any size: the token grid is stretched over it."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    large = np.repeat(np.repeat(image, 4, axis=0), 4, axis=1)
    fine = dataclasses.replace(SQUARE, patch=7)
    framed = fine.framed(Frame(large, 0.0, 0)).image
    assert abs(framed.shape[0] - framed.shape[1]) <= 1
    place = fine.place(*shape)
    top, left = round(place.top * framed.shape[0] / 56), round(place.left * framed.shape[1] / 56)
    assert np.array_equal(framed[top : top + 4 * shape[0], left : left + 4 * shape[1]], large)
    assert (framed[:top] == (127, 63, 0)).all() and (framed[:, :left] == (127, 63, 0)).all()


@pytest.mark.parametrize("shape", [(3000, 2), (2, 3000), (1, 50), (900, 7)])
def test_a_strip_of_a_few_pixels_is_framed_too(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    framed = SQUARE.framed(Frame(image, 0.0, 0)).image
    assert (framed == 200).all(axis=2).sum() == image[..., 0].size
