"""HTTP: motion JPEG is a camera, a file plays once, a snapshot is fetched each time it is due."""

import contextlib
import http.server
import importlib.util
import itertools
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.sources import snapshots
from score_edge.runtime.sources.address import Address
from score_edge.runtime.sources.base import sample
from score_edge.runtime.sources.capture import Capture
from score_edge.runtime.sources.network import rtsp_pipeline, take_transport
from score_edge.runtime.sources.open_source import open_source, sample_clip

_SPEC = importlib.util.spec_from_file_location("http_camera", Path(__file__).parents[2] / "http_camera.py")
assert _SPEC and _SPEC.loader
http_camera = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(http_camera)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for n in range(20):
        writer.write(np.full((48, 64, 3), 10 * n, np.uint8))
    writer.release()
    made = http_camera.HttpCamera(path, "me:p@ss/w")
    yield made
    made.server.shutdown()


def test_a_file_plays_once(camera: Any) -> None:
    with open_source(f"http://me:p%40ss%2Fw@{camera.at}/file.mp4") as source:
        assert len(list(source)) == 20
    assert not source.live and source.duration_s == pytest.approx(2.0)


def test_a_snapshot_is_fetched_when_it_is_due(camera: Any) -> None:
    with open_source(f"http://me:p%40ss%2Fw@{camera.at}/picture?key=1") as source:
        before = len(camera.asked)
        frames = sample(source, 5)
        levels = [round(float(next(frames).image.mean()) / 8) for _ in range(3)]
    assert levels == sorted(set(levels))  # each a picture of its own
    assert len(camera.asked) - before == 2 * 3  # once refused, once with the password


def test_attempts_are_counted_for_each_outage(camera: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "FIRST_WAIT_S", 0.01)
    with open_source(f"http://me:p%40ss%2Fw@{camera.at}/picture") as source:
        assert isinstance(source, snapshots.Snapshots)
        fetch, states = source._fetch, []
        answers = itertools.cycle([fetch, lambda: None, lambda: None])
        monkeypatch.setattr(source, "_fetch", lambda: (states.append(source.state), next(answers)())[1])
        frames = source.read(lambda time_s: True)
        assert [next(frames).gap for _ in range(3)] == [False, True, True]
    assert [state.rpartition(" ")[2] for state in states if state] == ["1", "2", "1", "2"]
    assert source.broken == 4


def test_a_picture_without_an_end_is_none_and_closing_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes by the drop, so that no single read ever takes too long."""
    monkeypatch.setattr(snapshots, "LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr(snapshots, "SILENT_S", 0.2)
    monkeypatch.setattr(snapshots, "FIRST_WAIT_S", 0.01)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"\xff\xd8")
                    time.sleep(0.05)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open_source(f"http://127.0.0.1:{server.server_port}/") as source:
        capture = Capture(source, 10, 1)
        deadline, states = time.monotonic() + 3, list[str]()
        while "attempt 2" not in source.state and time.monotonic() < deadline:
            states.append(source.state)
            time.sleep(0.01)
        assert "attempt 2" in source.state
        assert any(state.endswith("for 0 s") for state in states)  # while it was waited for
        began = time.monotonic()
        capture.stop(3)
        assert time.monotonic() - began < 1
    server.shutdown()


@pytest.mark.parametrize("alive", [False, True], ids=["closed", "kept alive"])
def test_a_picture_that_is_cut_off_is_not_shown_with_its_rest_grey(alive: bool) -> None:
    """OpenCV 4 decodes one (5 does not), so it is known by its length, of which here the JPEG is only a part.

    A whole one is shown at once, also where the server keeps the connection.
    """
    whole, asked = http_camera.jpeg(20) + bytes(1000), []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if alive else "HTTP/1.0"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole if len(asked) % 2 else whole[:-500])
            self.close_connection = not (alive and len(asked) % 2)

        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open_source(f"http://127.0.0.1:{server.server_port}/") as source:  # which asks once what is there
        assert isinstance(source, snapshots.Snapshots)
        began = time.monotonic()
        assert source._fetch() is None
        assert source._fetch() is not None
        assert time.monotonic() - began < 2
    server.shutdown()


@pytest.fixture
def certificate(camera: Any, tmp_path: Path) -> Path:
    """Of the camera's own making, as on most of them; the camera speaks TLS with it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, made = tmp_path / "key.pem", tmp_path / "camera.pem"
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=camera -addext subjectAltName=IP:127.0.0.1 -out {made}"
    )
    subprocess.run([*command.split(), "-keyout", str(key)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    camera.server.socket = context.wrap_socket(camera.server.socket, server_side=True)
    return made


def test_a_snapshot_behind_a_certificate_of_its_own(
    camera: Any, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read as a stream that is lost after every picture: no step of two frames was ever whole."""
    address = f"https://me:p%40ss%2Fw@{camera.at}/picture"
    with pytest.raises(ScoreEdgeError, match=r"its certificate is not trusted here: self.signed certificate") as caught:
        open_source(address)
    assert "p%40ss" not in str(caught.value) and "SSL_CERT_FILE" in caught.value.hint
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with open_source(address) as source:
        frames = sample(source, 20)
        assert [next(frames).gap for _ in range(3)] == [False] * 3


def test_a_file_behind_a_certificate_of_its_own_plays_once(camera: Any, certificate: Path) -> None:
    with open_source(f"https://me:p%40ss%2Fw@{camera.at}/file.mp4") as source:
        assert not source.live and len(list(source)) == 20


def test_a_stream_is_a_camera_and_its_clip_ends(camera: Any) -> None:
    times = [frame.time_s for frame in sample_clip(f"http://me:p%40ss%2Fw@{camera.at}/stream", 10, 5)]
    assert len(times) == 5


@pytest.mark.parametrize("login", ["me:wrong", "me:p@ss/w"])
def test_a_wrong_password_is_an_error_without_it(camera: Any, login: str) -> None:
    with pytest.raises(ScoreEdgeError) as caught:
        open_source(f"http://{login}@{camera.at}/stream")
    assert "gives no picture" in caught.value.message and "%40" in caught.value.hint
    assert "wrong" not in str(caught.value) and "p@ss" not in str(caught.value)


def test_the_transport_is_ours_and_not_the_cameras() -> None:
    assert take_transport(Address("rtsp://c/live")) == ("rtsp://c/live", "tcp")
    assert take_transport(Address("rtsp://c/live?a=1&transport=udp&b=")) == ("rtsp://c/live?a=1&b=", "udp")
    assert take_transport(Address("rtsp://c/live?transport=tcp")) == ("rtsp://c/live", "tcp")
    with pytest.raises(ScoreEdgeError, match="transport must be tcp or udp, not 'http'"):
        take_transport(Address("rtsp://c/live?transport=http"))


def test_what_the_camera_reads_stays_as_it_was_written() -> None:
    """RTSP servers read no plus as a space, and some no %2F as a slash."""
    address = Address("rtsp://c/live?password=a%20b+c&path=/cam/1&flag&transport=udp")
    assert take_transport(address)[0] == "rtsp://c/live?password=a%20b+c&path=/cam/1&flag"


def test_gstreamer_takes_the_picture_alone_and_gives_up() -> None:
    words = rtsp_pipeline('rtsp://c/"! filesink location=x "', jetson=False, transport="udp")
    assert "protocols=udp" in words and "media=video" in words and "tcp-timeout=5000000" in words
    assert '\\"! filesink location=x \\"' in words
