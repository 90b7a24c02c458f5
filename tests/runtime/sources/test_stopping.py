"""Stopping at any moment: each kind of source, in a process of its own, because what goes wrong here aborts it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
SHARED = Path(os.environ.get("SCORE_EDGE_SHARED") or Path(__file__).parents[4] / "shared")
STOPS = 50
PROGRAM = """
import os, random, sys, threading, time
from score_edge.runtime.sources.capture import Capture
from score_edge.runtime.sources.open_source import open_source
uri, stops, longest_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(0)
for n in range(stops):
    capture = Capture(open_source(uri), 30, 2)
    if n % 3:
        capture.take(0.05)
    time.sleep(chance.random() * longest_s)
    if n % 2:
        threading.Thread(target=capture.source.close).start()
    capture.stop()
    assert not any(thread.name == "capture" for thread in threading.enumerate())
    assert getattr(capture.source, "capture", None) is None  # freed, by the thread that read
print("stopped", stops)
"""


def stop_often(uri: str | Path, longest_s: float = 0.02, stdin: str = "", stops: int = STOPS) -> None:
    piped = subprocess.Popen([sys.executable, "-c", stdin], stdout=subprocess.PIPE) if stdin else None
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(uri), str(stops), str(longest_s)],
            stdin=piped.stdout if piped else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        if piped:
            piped.kill()
            piped.wait()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stopped {stops}\n", "")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30.0, (320, 240))
    rng = np.random.default_rng(0)
    for _ in range(60):
        writer.write(rng.integers(0, 255, (240, 320, 3)).astype(np.uint8))
    writer.release()
    return path


@pytest.fixture
def http_at(video: Path) -> Iterator[str]:
    server = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "sys.path.insert(0, sys.argv[1]); from http_camera import HttpCamera\n"
            "print(HttpCamera(Path(sys.argv[2])).at, flush=True); time.sleep(600)",
            str(ROOT / "tests"),
            str(video),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    yield server.stdout.readline().strip()
    server.kill()
    server.wait()


def test_a_video_file(video: Path) -> None:
    stop_often(video)


def test_a_folder_of_images(tmp_path: Path) -> None:
    for n in range(20):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((240, 320, 3), n, np.uint8))
    stop_often(tmp_path, 0.005)


@pytest.mark.parametrize("uri", ["synthetic://", "synthetic://?live=1"])
def test_the_synthetic_world(uri: str) -> None:
    stop_often(uri, 0.01)


def test_raw_frames() -> None:
    forever = "import sys\nwhile True: sys.stdout.buffer.write(bytes(64 * 48 * 3))"
    stop_often("-?size=64x48", 0.005, forever)
    stop_often("-?size=64x48", 0.005, "import time; time.sleep(300)", stops=2)  # nothing comes: it is not stuck either


@pytest.mark.parametrize("place", ["stream", "picture", "file.mp4"])
def test_over_http(http_at: str, place: str) -> None:
    stop_often(f"http://{http_at}/{place}", 0.02)


@pytest.mark.slow
def test_rtsp(rtsp: Any) -> None:
    rtsp.start()
    stop_often(rtsp.uri, 0.1, stops=20)  # two seconds each: the server's first picture


@pytest.mark.slow
def test_a_real_720p_file() -> None:
    path = SHARED / "videos" / "sam2_dog.mp4"
    if not path.exists():
        pytest.skip(f"no real clips at {path.parent}; set SCORE_EDGE_SHARED")
    stop_often(path, 0.2)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg to make an animation with")
def test_an_animation(video: Path, tmp_path: Path) -> None:
    for name, how in (("a.png", ["-f", "apng"]), ("a.webp", ["-c:v", "libwebp_anim"]), ("a.gif", [])):
        command = [
            "ffmpeg",
            "-nostdin",
            "-loglevel",
            "error",
            "-i",
            str(video),
            "-frames:v",
            "10",
            *how,
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True)
        stop_often(tmp_path / name, 0.05)
