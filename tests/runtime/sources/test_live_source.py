"""Sources that are live: what they refuse, what they survive, with real servers and pipes on this machine."""

import http.server
import io
import itertools
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.install import gstreamer_command
from score_edge.reference.endless import EndlessWorld
from score_edge.runtime.sources import camera
from score_edge.runtime.sources.base import Source, sample
from score_edge.runtime.sources.camera import Camera, csi_pipeline, has_gstreamer
from score_edge.runtime.sources.capture import Capture
from score_edge.runtime.sources.network import rtsp_pipeline
from score_edge.runtime.sources.open_source import open_source
from score_edge.runtime.sources.raw_frames import RawFrames


def test_an_rtsp_server_killed_and_restarted(rtsp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal is lost, which is said; it comes back at another resolution, which is marked; no frame is stale."""
    monkeypatch.setattr(camera, "LONGEST_WAIT_S", 1.0)
    rtsp.start(320, 240)
    with open_source(rtsp.uri) as source:
        frames = source.read(lambda time_s: True)
        before = [next(frames) for _ in range(5)]
        assert all(frame.image.shape == (240, 320, 3) and not frame.gap for frame in before)
        rtsp.kill()
        states: list[str] = []
        back = threading.Timer(3.0, lambda: (states.append(source.state), rtsp.start(640, 480)))
        back.start()
        frame = next(frame for frame in frames if frame.gap)
        after = [next(frames) for _ in range(3)]
        back.join()
    assert "no signal from rtsp://127.0.0.1" in states[0] and source.state == ""
    assert frame.image.shape[:2] == (480, 640) and not any(frame.gap for frame in after)
    assert frame.time_s - before[-1].time_s > 2.5  # the times of the pause are real
    assert isinstance(source, Camera) and source.reconnects == 1


def test_nothing_at_the_address_is_an_error_at_once_without_the_password() -> None:
    with pytest.raises(ScoreEdgeError, match="gives no picture") as error:
        open_source("rtsp://me:secret@127.0.0.1:9/live")
    assert "secret" not in str(error.value)


@pytest.fixture
def mjpeg() -> Iterator[str]:
    """An HTTP camera: motion JPEG, a corrupt and a 0-byte picture among the good ones; hangs up after 30."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for n in range(30):
                size = (64, 48) if n < 20 else (128, 96)
                data = cv2.imencode(".jpg", np.full((size[1], size[0], 3), 8 * n, np.uint8))[1].tobytes()
                if n == 5:
                    data = data[:30] + bytes(len(data) - 30)
                if n == 10:
                    data = b""
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                try:
                    self.wfile.write(head + data + b"\r\n")
                except OSError:
                    return
                time.sleep(0.01)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/stream.mjpeg"
    server.shutdown()


def test_an_http_camera_with_corrupt_and_empty_pictures_that_hangs_up(mjpeg: str) -> None:
    with open_source(mjpeg) as source:
        frames = source.read(lambda time_s: True)
        seen = []
        for frame in frames:
            seen.append(frame)
            if frame.gap:
                break
    assert len(seen) > 20
    assert seen[-1].gap and not any(frame.gap for frame in seen[:-1])
    assert all(b.time_s > a.time_s for a, b in itertools.pairwise(seen))
    assert all(frame.image.ndim == 3 and frame.image.size for frame in seen)


class Scripted:
    """OpenCV's capture as a camera driver behaves when it fails, which no camera here can be made to do."""

    def __init__(self, pictures: list[np.ndarray | None]) -> None:
        self.pictures = pictures
        self.at = -1

    def isOpened(self) -> bool:  # noqa: N802
        return bool(self.pictures)

    def grab(self) -> bool:
        self.at += 1
        return self.at < len(self.pictures)

    def retrieve(self) -> tuple[bool, Any]:
        picture = self.pictures[self.at]
        return picture is not None, picture

    def release(self) -> None:
        return


GOOD = np.zeros((4, 6, 3), np.uint8)


def test_unplugged_camera_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "FIRST_WAIT_S", 0.01)
    plugs = iter([Scripted([GOOD] * 3), Scripted([]), Scripted([]), Scripted([GOOD] * 2), Scripted([GOOD])])
    source = Camera("/dev/video9", lambda: next(plugs), "")
    frames = source.read(lambda time_s: True)
    assert [next(frames).gap for _ in range(6)] == [False, False, False, True, False, True]
    assert source.reconnects == 2


def test_what_a_camera_buffered_before_anybody_read_is_not_shown_as_the_present(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model takes a minute to load; network cameras are opened before, and go on sending."""
    monkeypatch.setattr(camera, "SILENT_S", 0.05)
    monkeypatch.setattr(camera, "FIRST_WAIT_S", 0.01)
    then, now = np.zeros((4, 6, 3), np.uint8), np.ones((4, 6, 3), np.uint8)
    for again in ([Scripted([now] * 3)], [Scripted([]), Scripted([now] * 3)]):
        plugs = iter([Scripted([then] * 9), *again])
        source = Camera("c", lambda plugs=plugs: next(plugs), "")  # type: ignore[misc]
        time.sleep(0.1)
        assert next(source.read(lambda time_s: True)).image.all()
    at_once = Camera("c", lambda: Scripted([then] * 3), "")
    assert not next(at_once.read(lambda time_s: True)).image.any()


@pytest.mark.parametrize("bad", [None, np.zeros((0, 6, 3), np.uint8)])
def test_frames_of_0_bytes_and_broken_ones_are_passed_over(bad: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "FIRST_WAIT_S", 0.01)
    plugs = iter([Scripted([GOOD, bad, bad, GOOD, *[bad] * 40]), Scripted([GOOD])])
    source = Camera("c", lambda: next(plugs), "")
    frames = source.read(lambda time_s: True)
    assert [next(frames).gap for _ in range(3)] == [False, False, True]
    assert source.broken == 32  # thirty in a row is no signal at all


def test_grey_cameras_are_cameras() -> None:
    source = Camera("c", lambda: Scripted([np.full((4, 6), 7, np.uint8)]), "")
    assert next(source.read(lambda time_s: True)).image.shape == (4, 6, 3)


def test_closing_ends_a_wait_for_the_signal_at_once() -> None:
    plugs = iter([Scripted([GOOD])] + [Scripted([])] * 100)
    source = Camera("c", lambda: next(plugs), "")
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    time.sleep(0.1)
    source.close()
    thread.join(1)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("v4l2:///dev/video99", "no camera at /dev/video99"),
        ("csi://0?widht=640", "'widht' is not an option"),
        ("csi://0?width=wide", "must be a whole number"),
        ("synthetic://?seed=", "has no value"),
        ("synthetic://?scene=999999999", "a scene of 999999999 steps is too long"),
        ("-?size=640", "need a size"),
        ("-?size=0x480", "need a size"),
        ("-", "need a size"),
        ("-?size=99999x99999", "more than the 100 million"),
        ("-?size=" + "9" * 5000 + "x1", "need a size"),
        ("-?size=6x4x3", "need a size"),
        ("-?size=\u0664x4", "need a size"),
        ("csi://0?width=" + "9" * 5000, "must be a whole number"),
        ("-?size=640x480&fps=0", "above 0"),
        ("-?size=640x480&fps=nan", "above 0"),
        ("-?size=640x480&fps=1e-300", "above 0"),
        ("-?size=640x480&fps=x", "above 0"),
        ("-?size=640x480&pixels=yuv", "'yuv' are not understood"),
        ("ndi://camera", "ndi:// is not a source"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_words(uri: str, message: str) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        open_source(uri)


@pytest.mark.skipif(has_gstreamer(), reason="this OpenCV has GStreamer")
def test_a_csi_camera_without_gstreamer_says_what_is_missing() -> None:
    with pytest.raises(ScoreEdgeError, match="OpenCV built with GStreamer") as error:
        open_source("csi://0")
    assert error.value.hint == gstreamer_command()


def test_gstreamer_pipelines() -> None:
    csi = csi_pipeline(1, 1920, 1080, 30)
    assert "sensor-id=1" in csi and "memory:NVMM" in csi and "leaky=downstream" in csi and csi.endswith("sync=false")
    assert 'location="rtsp://a/b?c=d&e"' in rtsp_pipeline("rtsp://a/b?c=d&e", jetson=True)
    assert "nvvidconv" in rtsp_pipeline("rtsp://a", jetson=True)
    assert "nvvidconv" not in rtsp_pipeline("rtsp://a", jetson=False)
    if shutil.which("gst-launch-1.0"):  # GStreamer itself reads the words a PC would use
        words = rtsp_pipeline("rtsp://127.0.0.1:9/x", jetson=False).replace(
            "appsink drop=true max-buffers=1", "fakesink"
        )
        done = subprocess.run(["gst-launch-1.0", *words.split()], capture_output=True, text=True, timeout=20)
        assert "no element" not in done.stderr and "could not parse" not in done.stderr.lower()


def test_raw_frames_from_a_pipe() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3)).astype(np.uint8)
    source = RawFrames("-?size=6x4&fps=2", io.BytesIO(pictures.tobytes() + b"rest"))
    frames = list(source)
    assert np.array_equal([frame.image for frame in frames], pictures)
    assert [frame.time_s for frame in frames] == [0, 0.5, 1, 1.5, 2]
    assert "4 of 72 bytes" in source.warning
    turned = next(iter(RawFrames("-?size=6x4&pixels=bgr24", io.BytesIO(pictures.tobytes()))))
    assert np.array_equal(turned.image, pictures[0][..., ::-1]) and turned.image.flags.c_contiguous


@pytest.mark.parametrize("came", [b"", b"half"])
def test_a_pipe_without_a_whole_frame_is_an_error(came: bytes) -> None:
    with pytest.raises(ScoreEdgeError, match=f"no frame came on standard input: it ended after {len(came)} of the 72"):
        list(RawFrames("-?size=6x4", io.BytesIO(came)))


def test_the_synthetic_world_is_reproducible_and_endless() -> None:
    with open_source("synthetic://?seed=5&scene=4") as one, open_source("synthetic://?seed=5&scene=4") as other:
        for a, b, _ in zip(one, other, range(40), strict=False):
            assert np.array_equal(a.image, b.image) and a.time_s == b.time_s == a.index / 4
    world = EndlessWorld(seed=5, scene_steps=4)
    frames = [frame for frame, _ in zip(world.frames(), range(17), strict=False)]
    assert np.array_equal(frames[8].image, world.scene(1).images[0])
    with open_source("synthetic://?steps=3") as ending:
        assert len(list(ending)) == 6


def test_a_live_synthetic_world_keeps_time() -> None:
    with open_source("synthetic://?live=1&steps=2") as source:
        began = time.monotonic()
        assert len(list(source)) == 4
    assert 0.7 <= time.monotonic() - began < 3


class Frames(Source):
    """Frames at a pace, live or not."""

    def __init__(self, count: int, live: bool, wait_s: float = 0.0, gap_at: int = -1) -> None:
        self.live, self._count, self._wait, self._gap_at = live, count, wait_s, gap_at

    def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
        for i in range(self._count):
            time.sleep(self._wait)
            if due(float(i)):
                yield Frame(GOOD, float(i), i, i == self._gap_at)


def drain(capture: Capture, wait_s: float = 0.0) -> list[list[int]]:
    steps = []
    while not capture.ended:
        taken = capture.take(1.0)
        if taken:
            steps.append([frame.index for frame in taken.frames])
            time.sleep(wait_s)
    return steps


def test_a_file_waits_for_whoever_is_slow() -> None:
    capture = Capture(Frames(7, live=False), 1, 2)
    assert drain(capture, 0.01) == [[0, 1], [2, 3], [4, 5], [6]]
    assert (capture.frames, capture.dropped) == (7, 0)


def test_of_a_camera_the_newest_step_wins_and_the_rest_is_counted() -> None:
    capture = Capture(Frames(40, live=True, wait_s=0.005), 1, 2)
    steps = drain(capture, 0.05)
    assert len(steps) < 15
    assert steps[-1] == [38, 39]
    assert capture.dropped == 40 - 2 * len(steps)
    assert all(pair[1] == pair[0] + 1 for pair in steps)


def test_a_step_never_spans_an_interruption() -> None:
    capture = Capture(Frames(6, live=False, gap_at=3), 1, 2)
    found = []
    while not capture.ended:
        if taken := capture.take(1.0):
            found.append(([frame.index for frame in taken.frames], taken.gap))
    assert found == [([0, 1], False), ([3, 4], True), ([5], False)]
    assert capture.dropped == 1


def test_the_sources_failure_reaches_whoever_takes() -> None:
    class Broken(Source):
        def read(self, due: Callable[[float], bool]) -> Iterator[Frame]:
            yield Frame(GOOD, 0.0, 0)
            raise ScoreEdgeError("the lens cap is on")

    capture = Capture(Broken(), 1, 1)
    assert capture.take(1.0) is not None
    with pytest.raises(ScoreEdgeError, match="lens cap"):
        capture.take(1.0)


def test_stopping_a_capture_that_nobody_reads() -> None:
    capture = Capture(Frames(10, live=False), 1, 1)
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 1


def test_times_that_jump_back_are_passed_over_until_they_catch_up() -> None:
    frames = [Frame(GOOD, t, i) for i, t in enumerate([0.0, 1.0, 2.0, 0.5, 1.5, 3.0])]
    assert [frame.time_s for frame in sample(frames, 1)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf"), 1e308, 1e-300])
def test_an_impossible_rate_is_refused_before_anything_runs(fps: float) -> None:
    with pytest.raises(ScoreEdgeError, match="impossible"):
        Capture(Frames(3, live=False), fps, 1)


_THREE = """
import os, sys, threading, time
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources import network
from score_edge.runtime.sources.open_source import open_source

def attempt(uri):
    try:
        open_source(uri)
    except ScoreEdgeError:
        took.append(time.monotonic() - began)

network.OPEN_S, took, began = 1.5, [], time.monotonic()
port = sys.argv[1]
addresses = [f"rtsp://127.0.0.1:{port}/a", f"rtsp://127.0.0.1:{port}/b", f"rtsp://127.0.0.1:{port}/c?transport=udp"]
threads = [threading.Thread(target=attempt, args=(uri,)) for uri in addresses]
for thread in threads:
    thread.start()
    time.sleep(0.1)
for thread in threads:
    thread.join()
assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ
print(sorted(took))
"""


def test_a_camera_that_says_nothing_keeps_no_other_waiting() -> None:
    """One over UDP waits: OpenCV takes the transport from the environment."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        command = [sys.executable, "-c", _THREE, str(mute.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    _, second, third = json.loads(done.stdout)
    assert second < 2.6 and third < 4.1
