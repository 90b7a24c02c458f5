from typing import Any

import cv2
import numpy as np
import pytest

from score_edge.core import Frame, Grid, Uint8
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.preprocess import Preprocessing, Resample, resize

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SMALL = Preprocessing(
    height=12, width=20, patch=2, merge=2, frames_per_step=2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5)
)
rng = np.random.default_rng(7)


def noise(height: int, width: int) -> Uint8:
    """Black and white pixels: the filters' overshoot is at its worst."""
    return rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


def smooth(height: int, width: int) -> Uint8:
    y, x = np.mgrid[:height, :width]
    return np.stack([np.sin(x / 9) * 99 + 120, np.cos(y / 7) * 99 + 120, (x + y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((720, 1280), (96, 96)),
        ((360, 480), (448, 448)),
        ((53, 37), (96, 96)),
        ((37, 53), (28, 56)),
        ((96, 96), (96, 112)),
        ((1, 1), (28, 28)),
        ((500, 3), (4, 500)),
        ((100, 100), (300, 90)),
    ],
)
def test_resize_is_pillows(source: tuple[int, int], target: tuple[int, int], make: Any, resample: Resample) -> None:
    pil = pytest.importorskip("PIL.Image")
    image = make(*source)
    filters = {name: pil.Resampling[name.upper()] for name in ("bicubic", "bilinear", "lanczos")}
    # One direction at a time, because Pillow 13 sometimes takes the height first.
    wide = pil.fromarray(image).resize((target[1], source[0]), filters[resample])
    expected = np.asarray(wide.resize(target[::-1], filters[resample]))
    np.testing.assert_array_equal(resize(image, *target, resample), expected)


@pytest.mark.parametrize(("source", "target"), [((720, 1280), (96, 96)), ((53, 37), (20, 16)), ((64, 64), (16, 32))])
def test_area_is_opencvs(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*source)
    expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(resize(image, *target, "area") - expected).max() <= 1


def test_the_right_size_is_left_alone() -> None:
    image = noise(12, 20)
    for resample in ("bicubic", "bilinear", "area"):
        np.testing.assert_array_equal(resize(image, 12, 20, resample), image)


def test_layout_against_plain_loops() -> None:
    images = [noise(12, 20), smooth(12, 20)]
    patches = SMALL.patchify([Frame(image, 0.0, i) for i, image in enumerate(images)])
    row = 0
    for token_y in range(3):
        for token_x in range(5):
            for y in range(2):
                for x in range(2):
                    values = [
                        (images[t][token_y * 4 + y * 2 + i, token_x * 4 + x * 2 + j, c] / 255 - SMALL.mean[c])
                        / SMALL.std[c]
                        for c in range(3)
                        for t in range(2)
                        for i in range(2)
                        for j in range(2)
                    ]
                    np.testing.assert_allclose(patches[row], values, atol=1e-6)
                    row += 1
    assert row == len(patches) == SMALL.shape[0]
    assert patches.dtype == np.float32 and patches.flags.c_contiguous


@pytest.mark.parametrize("size", [(112, 168), (130, 239), (720, 1280), (37, 53)])
def test_equals_transformers(size: tuple[int, int]) -> None:
    pytest.importorskip("PIL")
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    image = noise(*size)
    theirs = module.Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 448 * 448})(
        images=[image], return_tensors="np"
    )
    _, rows, columns = (int(n) for n in theirs["image_grid_thw"][0])
    preprocessing = Preprocessing(rows * 14, columns * 14, 14, 2, 2, CLIP_MEAN, CLIP_STD)
    ours = preprocessing.patchify(np.stack([image, image]))
    np.testing.assert_allclose(ours, theirs["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("size", [(360, 480), (720, 405), (37, 53), (60, 60)])
def test_pixels_are_smolvlms(size: tuple[int, int]) -> None:
    """Two resizes with Lanczos: the longest edge, then a square."""
    pytest.importorskip("PIL")
    module = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")
    image = smooth(*size)
    theirs = module.SmolVLMImageProcessorPil(size={"longest_edge": 90}, max_image_size={"longest_edge": 64})(
        images=[[image]], do_image_splitting=False, return_tensors="np"
    )["pixel_values"][0]
    half = (0.5, 0.5, 0.5)
    ours = Preprocessing(64, 64, 16, 4, 1, half, half, "lanczos", layout="pixels", longest_edge=90)
    (name,) = ours.prepare(image[None])
    assert name == "pixels"
    apart = np.abs(ours.prepare(image[None])["pixels"] - theirs)
    # Pillow 13 takes the height first where only the height shrinks, and rounds in between: 720 x 405 is such a frame.
    largest, mean = (0.06, 1e-3) if size[0] > size[1] else (1e-5, 1e-5)
    assert apart.max() <= largest and apart.mean() <= mean


def test_pixels_of_a_size_no_patch_fits() -> None:
    pytest.importorskip("PIL")
    module = pytest.importorskip("transformers.models.got_ocr2.image_processing_pil_got_ocr2")
    processor = module.GotOcr2ImageProcessorPil(size={"height": 30, "width": 30}, crop_to_patches=False)
    image = noise(45, 80)
    ours = Preprocessing(30, 30, 4, 2, 1, CLIP_MEAN, CLIP_STD, "bicubic", layout="pixels")
    theirs = processor(images=[image], return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(ours.prepare([Frame(image, 0.0, 0)])["pixels"], theirs, atol=1e-5)
    assert ours.grid == Grid(4, 4)


def test_too_few_frames_repeat_the_last() -> None:
    one, two = noise(12, 20), smooth(12, 20)
    np.testing.assert_array_equal(SMALL.patchify(one[None]), SMALL.patchify(np.stack([one, one])))
    assert not np.array_equal(SMALL.patchify(one[None]), SMALL.patchify(np.stack([one, two])))


def test_grid_and_shape() -> None:
    assert SMALL.grid == Grid(3, 5)
    assert SMALL.shape == SMALL.patchify(noise(9, 9)[None]).shape == (60, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 13}, "height 13 is not a multiple of patch \\* merge = 4"),
        ({"width": 0}, "width is 0"),
        ({"patch": 2.0}, "patch is 2.0"),
        ({"frames_per_step": -1}, "frames_per_step is -1"),
        ({"mean": (0.5, 0.5)}, "three finite numbers"),
        ({"std": (0.2, 0.0, 0.2)}, "must be positive"),
        ({"mean": (float("nan"), 0, 0)}, "three finite numbers"),
        ({"resample": "cubic"}, "'cubic' is no resampling filter"),
    ],
)
def test_impossible_settings(change: dict[str, Any], message: str) -> None:
    settings = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    with pytest.raises(ScoreEdgeError, match=message):
        Preprocessing(**settings | change)


def test_impossible_frames() -> None:
    for frames in ([], [noise(4, 4)] * 3, [noise(4, 4)[..., 0]], [noise(4, 4).astype(np.float32)]):
        with pytest.raises(ScoreEdgeError):
            SMALL.patchify([Frame(image, 0.0, 0) for image in frames])
