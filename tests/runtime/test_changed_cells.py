"""Which cells count as changed, against a plain computation."""

import numpy as np
import pytest

from score_edge.core import Grid
from score_edge.runtime.changed_cells import SAMPLES, cell_change, changed_cells, small_picture

GRID = Grid(4, 6)


def picture(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (GRID.height * 2, GRID.width * 2, 3)).astype(np.uint8)
    rows, columns = np.arange(height) * len(coarse) // height, np.arange(width) * coarse.shape[1] // width
    return coarse[rows][:, columns]


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (37, 51), (16, 24)])
def test_a_small_picture_has_one_size_and_the_means_of_the_frame(size: tuple[int, int]) -> None:
    small = small_picture(picture(0, *size), GRID)
    assert small.shape == (GRID.height * SAMPLES, GRID.width * SAMPLES, 3)
    assert np.abs(small.mean((0, 1)) - picture(0, *size).mean((0, 1))).max() < 3


def test_change_is_the_mean_of_a_cell_in_the_frame_where_it_is_largest() -> None:
    rng = np.random.default_rng(0)
    shape = (2, GRID.height * SAMPLES, GRID.width * SAMPLES, 3)
    a, b = (rng.integers(0, 256, shape).astype(np.int16) for _ in range(2))
    found = cell_change(a, b, GRID)
    for row in range(GRID.height):
        for column in range(GRID.width):
            cell = np.s_[:, row * SAMPLES : (row + 1) * SAMPLES, column * SAMPLES : (column + 1) * SAMPLES]
            expected = np.abs(a[cell].astype(float) - b[cell]).mean((1, 2, 3)).max()
            assert found[row, column] == pytest.approx(expected, rel=1e-5)


def test_noise_of_a_camera_is_mostly_gone_and_a_moved_thing_is_not() -> None:
    rng = np.random.default_rng(1)
    scene = picture(2).astype(float)
    noisy = [np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8) for _ in range(2)]
    small = [small_picture(image, GRID).astype(np.int16)[None] for image in noisy]
    assert cell_change(*small, GRID).max() < 2  # of single pixels it is 6.8
    moved = noisy[1].copy()
    moved[:120, :50] = 255 - moved[:120, :50]
    change = cell_change(small[0], small_picture(moved, GRID).astype(np.int16)[None], GRID)
    assert change[0, 0] > 10 and change[1:].max() < 2


def test_neighbours_of_what_changed_need_half_as_much() -> None:
    change = np.zeros((4, 6), np.float32)
    change[1, 1], change[1, 2], change[2, 2], change[3, 5] = 7, 4, 4, 4
    assert np.argwhere(changed_cells(change, 6.0)).tolist() == [[1, 1], [1, 2], [2, 2]]
    assert not changed_cells(change, 7.0).any()
    assert changed_cells(change, np.full((4, 6), 3.5, np.float32)).sum() == 4
