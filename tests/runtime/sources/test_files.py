"""Files that are odd, damaged or of many frames: everything readable is read, the rest is said."""

import itertools
import logging
import math
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources import video_file
from score_edge.runtime.sources.base import Ticks, sample
from score_edge.runtime.sources.image_header import read_header
from score_edge.runtime.sources.open_source import open_source, sample_clip
from score_edge.runtime.sources.video_file import VideoFile, open_video
from score_edge.runtime.sources.video_header import read_video_header, shown_seconds, transfer

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg to make this file with")


class Scripted:
    """OpenCV's capture of a file: a picture per packet, None where one is broken, at 10 frames per second."""

    def __init__(self, packets: list[bool], codec: bytes = b"h264") -> None:
        self.packets, self.codec, self.at = packets, codec, -1

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def grab(self) -> bool:
        self.at += 1
        return self.at < len(self.packets) and self.packets[self.at]

    def retrieve(self) -> tuple[bool, Any]:
        return True, np.zeros((4, 6, 3), np.uint8)

    def get(self, name: int) -> float:
        known = {
            cv2.CAP_PROP_FPS: 10.0,
            cv2.CAP_PROP_FRAME_COUNT: float(len(self.packets)),
            cv2.CAP_PROP_POS_MSEC: 100.0 * self.at,
            cv2.CAP_PROP_FOURCC: float(int.from_bytes(self.codec, "little")),
        }
        return known.get(name, 6.0)

    def set(self, name: int, value: float) -> bool:
        return True

    def release(self) -> None:
        return


def test_bad_packets_do_not_end_a_file_and_are_counted() -> None:
    packets = [True] * 3 + [False] * 5 + [True] * 20 + [False] + [True]
    with VideoFile("v.mp4", lambda: Scripted(packets)) as source:
        times = [frame.time_s for frame in source]
    assert len(times) == 24 and times[-1] == pytest.approx(2.9)
    assert source.warning == "v.mp4 is cut off or damaged: 24 of 30 frames, 3.0 of 3.0 s could be read"


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_opening_a_video_reads_its_header_once(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"v{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    opened, really = list[Path](), Path.open
    monkeypatch.setattr(Path, "open", lambda path, *mode: opened.append(path) or really(path, *mode))
    open_video(path)
    assert opened == [path] * 2  # its first bytes, to see what it is; then its header


@pytest.mark.parametrize(("start_s", "seconds"), [(0.0, 2.0), (1.0, 2.0), (3.0, 27.0)])
def test_a_video_that_was_trimmed_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start_s: float, seconds: float
) -> None:
    """As phones do it, and ``ffmpeg -ss … -c copy``: an edit list shows a part, and all frames stay in the file."""
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (64, 48))
    for level in range(300):
        writer.write(np.full((48, 64, 3), level % 256, np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    per_second = [struct.unpack_from(">I", data, data.find(name) + 16)[0] for name in (b"mvhd", b"mdhd")]
    at = data.find(b"elst")
    if at < 0:
        pytest.skip("this OpenCV writes no edit list")
    struct.pack_into(">Ii", data, at + 12, round(seconds * per_second[0]), round(start_s * per_second[1]))
    path.write_bytes(data)
    assert shown_seconds(read_video_header(path, bytes(data[:64]))) == pytest.approx(seconds)
    with open_source(path) as source:
        assert source.duration_s == pytest.approx(seconds, abs=0.15) == source.measure()
        assert len(list(source)) == pytest.approx(10 * seconds, abs=1) and not source.warning
    for frames in (2, 8, 500):
        found = [frame.image[0, 0, 0] for frame in sample_clip(path, 4, frames)]
        assert abs(int(found[0]) - 10 * start_s % 256) < 6
    assert not caplog.text
    struct.pack_into(">Q", data, at + 12, 0)  # the whole of it, as fragments say it
    path.write_bytes(data)
    assert shown_seconds(read_video_header(path, bytes(data[:64]))) == math.inf


def test_av1_without_a_decoder_is_named() -> None:
    with pytest.raises(ScoreEdgeError, match="AV1 video, and the installed OpenCV has no decoder") as caught:
        VideoFile("v.mp4", lambda: Scripted([False] * 99, b"AV01"))
    assert "ffmpeg" in caught.value.hint


def animation(path: Path, frames: int = 6) -> Path:
    if not hasattr(cv2, "imwriteanimation"):
        pytest.skip("this OpenCV writes no animations")
    moving = cv2.Animation()
    moving.frames = [np.full((20, 30, 3), 40 * n, np.uint8) for n in range(frames)]
    moving.durations = np.array([100 * (n + 1) for n in range(frames)])
    cv2.imwriteanimation(str(path), moving)
    return path


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_every_frame_of_an_animation_with_its_time(tmp_path: Path, suffix: str) -> None:
    with open_source(animation(tmp_path / f"a{suffix}")) as source:
        frames = list(source)
    assert [round(float(frame.image.mean()) / 40) for frame in frames] == list(range(6))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.cumsum([0, 1, 2, 3, 4, 5]) / 10, atol=1e-6)
    assert source.warning == ""


def test_every_page_of_a_tiff_a_second_apart(tmp_path: Path) -> None:
    cv2.imwritemulti(str(tmp_path / "p.tiff"), [np.full((20, 30, 3), 40 * n, np.uint8) for n in range(4)])
    with open_source(tmp_path / "p.tiff") as source:
        frames = list(source)
    assert [(int(frame.image[0, 0, 0]), frame.time_s) for frame in frames] == [(0, 0), (40, 1), (80, 2), (120, 3)]


def test_what_a_mixed_folder_leaves_out_is_said(tmp_path: Path) -> None:
    animation(tmp_path / "1.webp")
    (tmp_path / "clip.mp4").touch()
    with open_source(tmp_path) as source:
        assert len(list(source)) == 1
    assert "skipped: 1, the first is clip.mp4" in source.warning
    assert "1.webp holds 6 frames, only the first is taken" in source.warning


def test_twelve_bits_in_sixteen_are_said(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "dark.png"), np.full((8, 8), 4000, np.uint16))
    with open_source(tmp_path / "dark.png") as source:
        list(source)
    assert "uses only the lowest of its 16 bits" in source.warning


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff", ".ppm"])
def test_the_size_is_known_before_decoding(suffix: str) -> None:
    header = read_header(bytes(cv2.imencode(suffix, np.zeros((37, 53, 3), np.uint8))[1]))
    assert header and (header.width, header.height, header.frames, header.bits) == (53, 37, 1, 8)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFFxxxxWEBPVP8X", b"II*\0", b"P6 a", b"GIF8"]
)
def test_a_damaged_header_is_none(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("size", [b"", struct.pack("<HHII", 256, 4, 1, 8)])
def test_pages_without_a_size_are_no_picture(tmp_path: Path, size: bytes) -> None:
    page = struct.pack("<H", len(size) // 12) + size
    pages = [b"II*\0", struct.pack("<I", 8), page, struct.pack("<I", 8 + len(page) + 4), page, struct.pack("<I", 0)]
    (tmp_path / "pages.tif").write_bytes(b"".join(pages))
    with pytest.raises(ScoreEdgeError, match="cannot be read as an image"):
        list(open_source(tmp_path / "pages.tif"))


def test_a_pixel_bomb_is_refused_with_the_limit(tmp_path: Path) -> None:
    good = bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1])
    (tmp_path / "bomb.png").write_bytes(good[:16] + struct.pack(">II", 50_000, 50_000) + good[24:])
    with pytest.raises(ScoreEdgeError, match="50000 x 50000 pixels are more than the 100 million"):
        list(open_source(tmp_path / "bomb.png"))


@needs_ffmpeg
@pytest.mark.parametrize(
    ("suffix", "curve", "said"),
    [(".mp4", "smpte2084", "PQ"), (".mkv", "arib-std-b67", "HLG"), (".mp4", "bt709", ""), (".mkv", "bt709", "")],
)
def test_hdr_is_said(tmp_path: Path, suffix: str, curve: str, said: str) -> None:
    path = tmp_path / f"v{suffix}"
    command = "ffmpeg -nostdin -loglevel error -f lavfi -i testsrc2=s=64x48:r=5:d=1 -pix_fmt yuv420p -colorspace bt709"
    subprocess.run([*command.split(), "-color_primaries", "bt709", "-color_trc", curve, str(path)], check=True)
    assert transfer(read_video_header(path, path.read_bytes()[:64])) == said
    with open_source(path) as source:
        list(source)
    assert (f"HDR ({said})" in source.warning) == bool(said)


@needs_ffmpeg
def test_jumping_finds_the_frames_that_reading_on_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "long.mp4"
    command = "ffmpeg -nostdin -loglevel error -f lavfi -i testsrc2=s=160x120:r=25:d=60 -g 50"
    subprocess.run([*command.split(), "-pix_fmt", "yuv420p", str(path)], check=True)
    jumped: list[bool] = []
    monkeypatch.setattr(video_file._Jumps, "took", forgiving(jumped))
    found = [(frame.time_s, frame.index, frame.image.tobytes()) for frame in sample_clip(path, 2, 8)]
    monkeypatch.setattr(video_file, "_FAR_S", 1e9)
    assert found == [(frame.time_s, frame.index, frame.image.tobytes()) for frame in sample_clip(path, 2, 8)]
    assert any(jumped)


class Restarted(Scripted):
    """Its time stamps begin again after two seconds, and its container tells of those two alone."""

    def get(self, name: int) -> float:
        known = {cv2.CAP_PROP_FRAME_COUNT: 20.0, cv2.CAP_PROP_POS_MSEC: 100.0 * (self.at % 20)}
        return known[name] if name in known else super().get(name)


def test_a_recording_whose_clock_begins_again_is_measured_to_its_end() -> None:
    source = VideoFile("v", lambda: Restarted([True] * 50))
    assert source.measure() == pytest.approx(5.0)
    assert list(source)[-1].time_s == pytest.approx(4.9) and source.duration_s == pytest.approx(5.0)


@needs_ffmpeg
def test_what_lies_behind_the_end_that_a_container_tells_of_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a camera leaves it that was restarted: two transport streams, one behind the other."""
    whole = b""
    for rate in (10, 25):
        path = tmp_path / f"{rate}.ts"
        command = f"ffmpeg -nostdin -loglevel error -f lavfi -i testsrc2=s=64x48:r={rate}:d=2 -c:v mpeg2video"
        subprocess.run([*command.split(), str(path)], check=True)
        whole += path.read_bytes()
    (tmp_path / "whole.ts").write_bytes(whole)
    with caplog.at_level(logging.WARNING):
        times = [frame.time_s for frame in sample_clip(tmp_path / "whole.ts", 4, 6)]
        assert len(times) == 6
        assert times[-1] > 2.5 or "whole.ts goes on behind the 1.9 s" in caplog.text
        assert len(list(sample_clip(tmp_path / "25.ts", 4, 6))) == 6
    assert caplog.text.count("goes on") <= 1


def forgiving(jumped: list[bool]) -> Any:
    """What decides about jumps, told that every one was fast."""
    took = video_file._Jumps.took

    def patched(self: Any, work_s: float, video_s: float, target_s: float | None, *, exact: bool) -> None:
        jumped.append(target_s is not None)
        took(self, 0.0 if target_s is not None else max(work_s, 1e-6), video_s, target_s, exact=exact)

    return patched


@pytest.mark.parametrize("uri", ["synthetic://", "synthetic://?live=1"])
def test_a_clip_of_what_has_no_end_is_its_next_seconds(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        shares: list[float] = []
        times = [frame.time_s for frame in sample_clip(uri, fps=4, max_frames=6, on_progress=shares.append)]
    assert len(times) == 6 and times[-1] < 1.6
    assert f"{uri} has no end: the clip is its next 1.5 s" in caplog.text
    assert shares == sorted(shares) and shares[-1] == 1


def test_a_clip_is_read_as_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_source("synthetic://?steps=8") as source:
        assert not source.endless
    frames = sample_clip("nowhere.mp4", 2, 4)  # nothing is opened before the first frame is wanted
    with pytest.raises(ScoreEdgeError, match="does not exist"):
        next(frames)


def test_ticks_say_when_the_next_frame_is_due() -> None:
    ticks = Ticks(2)
    for time_s in itertools.takewhile(lambda t: t < 3, (n / 10 for n in itertools.count())):
        due = time_s >= ticks.next_s
        assert ticks(time_s) == due


def test_another_thread_only_asks(tmp_path: Path) -> None:
    """A decoder that somebody reads is not freed by `close` of another thread, but by the reader, at once."""
    import threading

    source = VideoFile("v.mp4", lambda: Scripted([True] * 50))
    frames: Iterator[Any] = sample(source, 10)
    next(frames)
    closing = threading.Thread(target=source.close)
    closing.start()
    closing.join()
    assert source.capture is not None
    assert list(frames) == [] and source.capture is None
