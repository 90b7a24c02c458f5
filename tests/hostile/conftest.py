"""Running the command as a user does, in a folder of its own, and what must hold however it fails."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def zygote() -> Iterator["subprocess.Popen[str]"]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("zygote.py")], **pipes)
    yield process
    process.stdin.close()
    process.wait(30)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a text, an empty file, an image folder and a broken bundle, to be the working directory."""
    import cv2
    import numpy as np

    folder = tmp_path / "here"
    (folder / "images").mkdir(parents=True)
    (folder / "broken").mkdir()
    (folder / "broken" / "bundle.json").write_text("{")
    (folder / "text.mp4").write_text("no video\n")
    (folder / "empty.mp4").touch()
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(folder / "images" / f"{i}.png"), rng.integers(0, 255, (40, 40, 3), np.uint8))
    return folder


@pytest.fixture
def run(zygote: "subprocess.Popen[str]", place: Path, tmp_path: Path) -> Run:
    """Run the command in `place`; whatever comes of it, there is no traceback, and none was hidden in a file."""
    (tmp_path / "tmp").mkdir()
    outputs = [tmp_path / name for name in ("stdout", "stderr")]
    mine = {"TMPDIR": str(tmp_path / "tmp"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "200"}

    def run(
        *arguments: str, env: dict[str, str] | None = None, room: int = 0, stream: int = -1, to: str = "closed"
    ) -> Done:
        """Args: room: bytes that a file may have; stream, to: "closed", "gone" or a path for one standard stream."""
        streams = [os.devnull, *map(str, outputs)]
        if stream >= 0:
            streams[stream] = to
        for output in outputs:
            output.write_text("")
        request = {"arguments": arguments, "cwd": str(place), "room": room, "streams": streams}
        request["env"] = {**os.environ, **mine, **(env or {})}
        print(json.dumps(request), file=zygote.stdin, flush=True)
        code = int(zygote.stdout.readline())
        done = Done(code, *(output.read_bytes().decode("utf-8", "replace") for output in outputs))
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert not list((tmp_path / "tmp").glob("score-edge-*")), done.stderr
        return done

    return run
