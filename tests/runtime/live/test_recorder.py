"""Recording: what was seen can be played, and a full disk ends the recording and nothing else."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from score_edge.core import Frame, Grid
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.live import recorder as module
from score_edge.runtime.live.events import Answered, StepSeen
from score_edge.runtime.live.recorder import Recorder

GRID = Grid(3, 4)


def step(n: int, size: tuple[int, int] = (48, 64)) -> StepSeen:
    image = np.random.default_rng(n).integers(0, 255, (*size, 3)).astype(np.uint8)
    frame, keep = Frame(image, n / 2, n), np.arange(12) % 5 == n % 5
    return StepSeen(n, frame, keep, keep | (n % 2 == 0), False, False, {}, 0.0, n, 0, 0, 1, 0)


def frames_in(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_step_is_a_frame_whatever_its_size(tmp_path: Path, suffix: str) -> None:
    recorder = Recorder(tmp_path / f"seen{suffix}", GRID, 2.0)
    for n in range(6):
        recorder(step(n, (48, 64) if n < 3 else (90, 64)))
    recorder(Answered("what?", "a ball", "asked", 0, 0, "", 0, 0, 0))
    recorder(step(6))
    recorder.close()
    frames = frames_in(recorder.path)
    assert len(frames) == 7 and all(frame.shape == (480, 640, 3) for frame in frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(("fps", "plays"), [(0.5, 0.5), (0.01, 0.01), (1 / 900, 0.01), (1e-6, 0.01)])
def test_steps_that_are_far_apart(tmp_path: Path, suffix: str, fps: float, plays: float) -> None:
    with contextlib.closing(Recorder(tmp_path / f"seen{suffix}", GRID, fps)) as recorder:
        for n in range(3):
            recorder(step(n))
    assert len(frames_in(recorder.path)) == 3
    assert cv2.VideoCapture(str(recorder.path)).get(cv2.CAP_PROP_FPS) == pytest.approx(plays)


@pytest.mark.parametrize(
    ("halves", "frames"),
    [
        ([0, 1, 4, 5], 6),  # two steps were dropped
        ([0, 1.4, 2.8, 4.2, 5.6, 7], 8),  # the machine is too slow for the rate
        ([0, 1.2, 1.8, 3.1, 3.9, 5], 6),  # jitter
        ([0, 1, 7201, 7202], 24),  # an hour without signal: ten seconds of it
        ([5000, 5001, 0, 1, 4], 7),  # its times begin anew
    ],
)
def test_it_plays_as_fast_as_it_was_seen(tmp_path: Path, halves: list[float], frames: int) -> None:
    with contextlib.closing(Recorder(tmp_path / "seen.mp4", GRID, 2.0)) as recorder:
        for n in halves:
            seen = step(round(n))
            recorder(replace(seen, frame=Frame(seen.frame.image, n / 2, seen.frame.index)))
    assert len(frames_in(recorder.path)) == frames


@pytest.mark.parametrize(("name", "message"), [("seen.gif", "cannot be recorded"), ("no/seen.mp4", "no folder")])
def test_what_cannot_be_recorded_to(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        Recorder(tmp_path / name, GRID, 2.0)


def test_what_opencv_cannot_write_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *given: object) -> None: ...

        def isOpened(self) -> bool:  # noqa: N802
            return False

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", Refusing)
    recorder = Recorder(tmp_path / "seen.mp4", GRID, 2.0)
    with pytest.raises(ScoreEdgeError, match="OpenCV cannot write"):
        recorder(step(0))
    assert not list(tmp_path.iterdir())


def test_two_recordings_to_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    late = Recorder(path, GRID, 2.0)
    with contextlib.closing(Recorder(path, GRID, 2.0)) as first:
        first(step(0))
        with pytest.raises(ScoreEdgeError, match="is being recorded to by another command"):
            Recorder(path, GRID, 2.0)
        with pytest.raises(ScoreEdgeError, match="is being recorded to by another command"):
            late(step(0))
        late.close()
        first(step(1))
    assert len(frames_in(path)) == 2
    with contextlib.closing(Recorder(path, GRID, 2.0)) as again:
        again(step(0))
    assert len(frames_in(path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 24 MB where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True)
    if not done or done.returncode:
        pytest.skip("this user may not mount a small file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_ends_the_recording_in_words(small_disk: Path) -> None:
    recorder = Recorder(small_disk / "seen.mp4", GRID, 2.0)
    with pytest.raises(ScoreEdgeError, match="are left on its disk"):
        for n in range(500):
            recorder(step(n))
    assert len(frames_in(recorder.path)) > 3
    recorder.close()


def test_low_room_is_noticed_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(tmp_path / "seen.mp4", GRID, 2.0)
    recorder(step(0))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=module._RESERVE - 1))
    with pytest.raises(ScoreEdgeError, match="stopped"):
        recorder(step(1))
    assert len(frames_in(recorder.path)) == 1


def test_a_killed_recording_as_mkv_can_be_played(tmp_path: Path) -> None:
    program = (
        "import os, sys\nsys.path.insert(0, sys.argv[2])\n"
        "from test_recorder import Recorder, GRID, step\n"
        "r = Recorder(sys.argv[1], GRID, 2.0)\n"
        "for n in range(40): r(step(n))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "seen.mkv"
    subprocess.run([os.sys.executable, "-c", program, path, Path(__file__).parent], check=False)
    assert len(frames_in(path)) > 20
