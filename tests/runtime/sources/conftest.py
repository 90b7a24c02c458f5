"""A real RTSP server as a camera: GStreamer's, run by the system's Python."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

RTSP_SERVER = Path(__file__).parents[2] / "rtsp_server.py"
SYSTEM_PYTHON = Path("/usr/bin/python3")
NEEDED = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class RtspServer:
    """Started, killed and started again at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.uri = f"rtsp://127.0.0.1:{self.port}/live"
        self._process: subprocess.Popen[str] | None = None

    def start(self, width: int = 320, height: int = 240) -> None:
        command = [str(SYSTEM_PYTHON), str(RTSP_SERVER), str(self.port), str(width), str(height)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", NEEDED], capture_output=True).returncode:
        pytest.skip("no RTSP server: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good")
    server = RtspServer()
    yield server
    server.kill()
