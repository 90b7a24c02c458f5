from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from score_edge.core import Frame, Mask
from score_edge.errors import ScoreEdgeError
from score_edge.runtime import overlay
from score_edge.runtime.overlay import contact_sheet, paint, thumbnail, write_overlay


def clip(count: int, height: int = 48, width: int = 64) -> tuple[list[Frame], list[Mask]]:
    rng = np.random.default_rng(1)
    frames = [Frame(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), i / 2, i) for i in range(count)]
    return frames, [rng.random((6, 8)) < 0.3 for _ in range(count)]


def test_kept_tokens_keep_their_pixels_and_dropped_ones_are_dark_and_grey() -> None:
    image = np.full((120, 160, 3), (200, 40, 40), np.uint8)
    keep = np.zeros((6, 8), bool)
    keep[2:4, 3:6] = True
    painted = paint(image, keep)
    np.testing.assert_array_equal(painted[42:78, 62:118], image[42:78, 62:118])
    dropped = painted[:38].reshape(-1, 3).astype(int)
    assert dropped.max() < 80
    assert np.ptp(dropped, axis=1).max() < 20
    outline = painted[40, 60:120]
    assert (outline == outline[0]).all() and outline[0].max() == 255  # one bright line, around the block not in it
    assert (painted[60, 80] == image[60, 80]).all()
    assert (image == (200, 40, 40)).all()


def test_encoded_cells_are_outlined_and_less_dark_unless_all_are() -> None:
    image = np.full((120, 160, 3), (200, 40, 40), np.uint8)
    keep, encoded = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    keep[2, 3] = encoded[2, 3] = encoded[2, 4] = True
    plain, painted = paint(image, keep), paint(image, keep, encoded)
    np.testing.assert_array_equal(painted[40:60, 60:80], plain[40:60, 60:80])  # kept: as ever
    assert painted[50, 90].sum() > plain[50, 90].sum()  # encoded, not kept
    assert (painted[40, 85] != plain[40, 85]).any() and painted[40, 85].argmax() == 2  # its blue rim
    np.testing.assert_array_equal(painted[:40], plain[:40])
    np.testing.assert_array_equal(paint(image, keep, np.ones((6, 8), bool)), plain)


def test_all_none_and_a_token_in_the_corner() -> None:
    image = np.full((37, 53, 3), 90, np.uint8)
    everything = paint(image, np.ones((3, 5), bool))
    assert (everything[1:-1, 1:-1] == 90).all() and (everything[0] != 90).any()
    assert (paint(image, np.zeros((3, 5), bool)) < 60).all()
    corner = np.zeros((3, 5), bool)
    corner[2, 4] = True
    assert (paint(image, corner)[36, 52] == paint(image, np.ones((3, 5), bool))[0, 0]).all()


@pytest.mark.parametrize(
    ("count", "columns", "across", "down"), [(1, None, 1, 1), (5, None, 3, 2), (5, 2, 2, 3), (2, 9, 2, 1)]
)
def test_the_sheet_has_a_cell_for_every_frame(count: int, columns: int | None, across: int, down: int) -> None:
    frames, keeps = clip(count)
    sheet = contact_sheet(frames, keeps, columns)
    assert sheet.dtype == np.uint8 and sheet.shape[1] <= 1920
    cell_width, cell_height = (sheet.shape[1] - 12) // across - 12, (sheet.shape[0] - 12) // down - 12 - 26
    assert cell_width * 48 / 64 == pytest.approx(cell_height, abs=1)


def test_captions_are_written_and_counted() -> None:
    frames, keeps = clip(2)
    assert not np.array_equal(contact_sheet(frames, keeps, captions=["a", "b"]), contact_sheet(frames, keeps))
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(frames, keeps, captions=["only one"])
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(frames, keeps[:1])


def test_a_png_is_the_sheet(tmp_path: Path) -> None:
    frames, keeps = clip(4)
    path = tmp_path / "o.PNG"
    path.write_text("old")
    write_overlay(path, frames, keeps)
    read = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(read, contact_sheet(frames, keeps))
    assert [p.name for p in tmp_path.iterdir()] == ["o.PNG"]


def test_an_mp4_plays_with_mixed_and_odd_sizes(tmp_path: Path) -> None:
    frames, keeps = clip(3, 37, 53)
    frames[1] = Frame(np.zeros((90, 33, 3), np.uint8), 0.5, 1)
    write_overlay(tmp_path / "o.mp4", frames, keeps, fps=4)
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 4
    shapes = [image.shape for good, image in (capture.read() for _ in range(4)) if good]
    assert shapes == [(446, 640, 3)] * 3


def test_what_cannot_be_written(tmp_path: Path) -> None:
    frames, keeps = clip(1)
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "o.gif", "cannot be written as 'o.gif'"),
        (tmp_path / "file" / "o.mp4", "cannot be written"),
    ):
        with pytest.raises(ScoreEdgeError, match=message):
            write_overlay(path, frames, keeps)
    with pytest.raises(ScoreEdgeError, match="no frames"):
        write_overlay(tmp_path / "o.png", [], [])


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_a_full_disk_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    writer = Mock(fourcc=cv2.VideoWriter.fourcc)
    writer.return_value.isOpened.return_value = False  # as where not even its header has room
    monkeypatch.setattr(cv2, "VideoWriter", writer)
    (tmp_path / f"o{suffix}").symlink_to("/dev/full")
    with pytest.raises(ScoreEdgeError, match="No space left on device"):
        write_overlay(tmp_path / f"o{suffix}", *clip(1))


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"o{suffix}"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(overlay, "paint", fail)
    with pytest.raises(KeyboardInterrupt):
        write_overlay(path, *clip(2))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("size", "small"),
    [((48, 64), (48, 64)), ((1080, 1920), (360, 640)), ((2160, 3840), (360, 640)), ((4096, 32), (1280, 10))],
)
def test_a_thumbnail_is_small_and_holds_no_large_picture(size: tuple[int, int], small: tuple[int, int]) -> None:
    frame = Frame(np.full((*size, 3), 7, np.uint8), 1.5, 3, True)
    made = thumbnail(frame)
    assert made.image.shape[:2] == small and made.image.mean() == 7
    assert (made.time_s, made.index, made.gap) == (1.5, 3, True)
    assert made is frame or made.image.base is None
