"""The encoder gate: what passes for unchanged, and that drift does not."""

import numpy as np
import pytest

from score_edge.core import Grid
from score_edge.runtime.live.gate import EncoderGate, pixel_change

GRID = Grid(3, 4)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 200, (2, 48, 64, 3)).astype(np.uint8)


def plain_change(a: np.ndarray, b: np.ndarray) -> float:
    cells = np.abs(a.astype(float) - b).reshape(2, 3, 16, 4, 16, 3)
    return float(cells.mean(axis=(2, 4, 5)).max())


@pytest.mark.parametrize("seed", range(3))
def test_change_is_that_of_the_most_changed_cell(seed: int) -> None:
    a, b = picture(seed), picture(seed + 10)
    assert pixel_change(a, b, GRID) == pytest.approx(plain_change(a, b))
    small = a.copy()
    small[1, 20:24, 30:40] += 30
    assert pixel_change(a, small, GRID) == pytest.approx(plain_change(a, small))


@pytest.mark.parametrize(("size", "grid"), [((384, 384), Grid(14, 14)), ((50, 67), Grid(3, 4)), ((5, 7), Grid(5, 7))])
def test_cells_cover_the_picture_to_its_last_pixel(size: tuple[int, int], grid: Grid) -> None:
    """LLaVA-OneVision's 384 pixels are 14 cells of 27 and six pixels more."""
    pixels = np.full((2, *size, 3), 100, np.uint8)
    for y, x in ((-1, -1), (0, -1), (-1, 0), (0, 0)):
        changed = pixels.copy()
        changed[1, y, x] = 200
        assert pixel_change(pixels, changed, grid) > 0
    assert pixel_change(pixels, pixels + np.uint8(7), grid) == pytest.approx(7)


def test_the_first_step_is_encoded_and_the_same_again_is_not() -> None:
    gate = EncoderGate(0.0, GRID)
    pixels = picture()
    assert [gate.unchanged(pixels) for _ in range(3)] == [False, True, True]
    changed = pixels.copy()
    changed[0, 0, 0, 0] ^= 1
    assert not gate.unchanged(changed)


def test_slow_drift_adds_up_until_it_is_encoded() -> None:
    gate = EncoderGate(3.5, GRID)
    pixels = picture()
    encoded = [not gate.unchanged(pixels + np.uint8(level)) for level in range(10)]
    assert encoded == [True, False, False, False, True, False, False, False, True, False]


def test_a_small_thing_is_not_lost_in_a_large_picture() -> None:
    gate = EncoderGate(2.0, GRID)
    pixels = picture()
    gate.unchanged(pixels)
    moved = pixels.copy()
    moved[:, 4:10, 4:10] = 255
    assert not gate.unchanged(moved)


def test_reset_and_another_size_are_encoded() -> None:
    gate = EncoderGate(2.0, GRID)
    gate.unchanged(picture())
    assert not gate.unchanged(picture()[:, :24])
    gate.reset()
    assert not gate.unchanged(picture()[:, :24])


def test_the_callers_buffer_may_be_reused() -> None:
    gate = EncoderGate(2.0, GRID)
    pixels = picture()
    gate.unchanged(pixels)
    pixels += 50
    assert not gate.unchanged(pixels)
