import numpy as np
import pytest

from score_edge.runtime.preprocess import Preprocessing, rectangles
from score_edge.runtime.resize import resize, resize_part

rng = np.random.default_rng(3)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos", "area"])
@pytest.mark.parametrize("sizes", [[(96, 96)], [(64, 112), (90, 96)], [(37, 96)], [(53, 61)]])
def test_a_part_is_that_part_of_the_whole(sizes, resample):
    image = rng.integers(0, 2, (53, 61, 3), dtype=np.uint8) * np.uint8(255)
    whole = image
    for size in sizes:
        whole = resize(whole, *size, resample)
    for rows, columns in [(slice(0, 1), slice(0, 1)), (slice(17, 37), slice(5, 29)), (slice(0, 37), slice(40, 61))]:
        found = resize_part(image, sizes, rows, columns, resample)
        np.testing.assert_array_equal(found, whole[rows, columns])


def test_rectangles_cover_each_cell_once():
    for share in (0.0, 0.2, 0.5, 0.9, 1.0):
        cells = rng.random((7, 9)) < share
        covered = np.zeros(cells.shape, int)
        for top, bottom, left, right in rectangles(cells):
            covered[top:bottom, left:right] += 1
        np.testing.assert_array_equal(covered, cells)


@pytest.mark.parametrize(
    "settings",
    [
        {"height": 96, "width": 96, "patch": 8, "merge": 2},
        {"height": 54, "width": 54, "patch": 2, "merge": 2, "layout": "pixels"},  # cells that share patches
        {"height": 64, "width": 64, "patch": 8, "merge": 2, "layout": "pixels", "longest_edge": 80},
        {"height": 48, "width": 80, "patch": 8, "merge": 2, "letterbox": True},
    ],
)
def test_cells_are_resized_as_the_whole_frame_is(settings):
    preprocessing = Preprocessing(frames_per_step=1, mean=(0.5,) * 3, std=(0.5,) * 3, **settings)
    image = rng.integers(0, 256, (90, 120, 3), np.uint8)
    whole = preprocessing.resized(image)
    for share in (0.1, 0.3, 0.7):
        cells = rng.random(preprocessing.grid.tokens) < share
        pixels = np.zeros_like(whole)[None]
        preprocessing.update(pixels, [image], cells)
        expected = preprocessing.cut_cells(whole[None], np.flatnonzero(cells))
        np.testing.assert_array_equal(preprocessing.cut_cells(pixels, np.flatnonzero(cells)), expected)
