"""Every name a file system allows is opened or refused in words; OpenCV alone would crash on some."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.native_path import native_path, printable

ODD = "caf\udce9"  # b"caf\xe9": ISO-8859-1, as an old disk has it


def test_a_name_that_is_utf8_stays_and_is_absolute(tmp_path: Path) -> None:
    assert native_path(tmp_path / "é 漢.mp4") == str(tmp_path / "é 漢.mp4")
    assert Path(native_path("a:b.mp4")).is_absolute()


def test_a_working_folder_that_is_not_utf8_is_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ODD).mkdir()
    monkeypatch.chdir(tmp_path / ODD)
    assert native_path("a:b.mp4") == "./a:b.mp4"
    assert native_path(tmp_path / ODD / "sub" / "c.mp4") == "./sub/c.mp4"


def test_any_other_name_is_refused_in_words() -> None:
    with pytest.raises(ScoreEdgeError, match="is not UTF-8") as caught:
        native_path(f"/x/{ODD}.mp4")
    str(caught.value).encode()  # can be printed
    assert printable(ODD) == "caf\N{REPLACEMENT CHARACTER}"


def test_a_graph_in_such_a_folder_is_refused_in_words_too(tmp_path: Path) -> None:
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.graphs.onnx_graph import OnnxGraph

    (tmp_path / ODD).mkdir()
    shutil.copy(Bundle.open("reference").encoder_path, tmp_path / ODD / "encoder.onnx")
    with pytest.raises(ScoreEdgeError, match="is not UTF-8"):
        OnnxGraph(tmp_path / ODD / "encoder.onnx")


PROGRAM = """
import sys, numpy as np
from pathlib import Path
from score_edge.errors import ScoreEdgeError
from score_edge.core import Frame, Grid
from score_edge.runtime.sources.open_source import open_source
from score_edge.runtime.overlay import write_overlay
from score_edge.runtime.live.recorder import Recorder
sys.stdout.reconfigure(errors="backslashreplace")
frame, keep = Frame(np.zeros((48, 64, 3), np.uint8), 0.0, 0), np.ones((2, 2), bool)
for place in sys.argv[1:]:
    def read():
        with open_source(place) as source:
            return sum(1 for _ in source)
    def overlay():
        write_overlay(place + ".out.mp4", [frame], [keep])
        return "overlay"
    def record():
        Recorder(place + ".mkv", Grid(2, 2), 1.0).close()
        return "record"
    for what in (read, overlay, record):
        try:
            print(what())
        except ScoreEdgeError as error:
            print("refused:", error.message)
"""


def run(folder: Path, *names: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        cwd=folder,
        capture_output=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8", "replace").splitlines()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    import cv2
    import numpy as np

    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 48))
    for _ in range(4):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    return path


def test_opencv_is_never_given_such_a_name(video: Path, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    shutil.copy(video, folder / "v.avi")
    shutil.copy(video, tmp_path / f"{ODD}.avi")
    assert run(folder, "v.avi") == ["4", "overlay", "record"]  # only the working folder has such a name
    refused = run(tmp_path, f"{ODD}.avi")
    assert len(refused) == 3 and all("is not UTF-8" in line for line in refused)


def test_another_locale_opens_the_same_files(video: Path, tmp_path: Path) -> None:
    if not shutil.which("localedef"):
        pytest.skip("no localedef to make an ISO-8859-1 locale with")
    made = subprocess.run(
        ["localedef", "-i", "fr_FR", "-f", "ISO-8859-1", str(tmp_path / "fr_FR.ISO-8859-1")], capture_output=True
    )
    if made.returncode > 1:
        pytest.skip("no locale sources here: apt-get install locales")
    shutil.copy(video, tmp_path / "café.avi")
    latin = {"LC_ALL": "fr_FR.ISO-8859-1", "LOCPATH": str(tmp_path), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert run(tmp_path, "café.avi", **latin) == ["4", "overlay", "record"]
    assert run(tmp_path, "café.avi", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == ["4", "overlay", "record"]
    program = "from score_edge.cli import main; main()"
    doctor = subprocess.run([sys.executable, "-c", program, "doctor"], capture_output=True, env={**os.environ, **latin})
    assert b"Traceback" not in doctor.stderr + doctor.stdout
