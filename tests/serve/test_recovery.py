"""What breaks in the field: a camera's network, and the server itself."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("fastapi")
_spec = importlib.util.spec_from_file_location(
    "rtsp_of_sources", Path(__file__).parents[1] / "runtime/sources/conftest.py"
)
assert _spec and _spec.loader
_sources = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _sources
_spec.loader.exec_module(_sources)
rtsp = _sources.rtsp
COMMAND = [sys.executable, "-c", "from score_edge.cli import main; main()", "serve", "reference"]


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What `found` gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return value


def camera(address: str, name: str) -> dict[str, Any]:
    cameras = httpx.get(f"{address}/live", timeout=30).json()["cameras"]
    return next(camera for camera in cameras if camera["name"] == name)


def ask(address: str, name: str) -> httpx.Response:
    given = {"model": f"reference@{name}", "messages": [{"role": "user", "content": "what moved?"}]}
    return httpx.post(f"{address}/v1/chat/completions", json=given, timeout=60)


@pytest.mark.slow
def test_a_camera_whose_server_is_killed_comes_back_and_the_other_goes_on(
    served: Any, rtsp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from score_edge.runtime.sources import camera as cameras

    monkeypatch.setattr(cameras, "LONGEST_WAIT_S", 1.0)
    rtsp.start()
    with served(source={"front": rtsp.uri, "yard": "synthetic://?live=1"}) as address:
        until(lambda: camera(address, "front")["state"] == "live")
        rtsp.kill()
        lost = until(lambda: (found := camera(address, "front"))["state"] == "lost" and found)
        assert "127.0.0.1" in lost["reason"] and "/live" not in lost["reason"]
        before = camera(address, "yard")["steps"]
        answer = ask(address, "front")  # from what it remembers, and how old that is
        assert answer.status_code == 200 and float(answer.headers["x-frame-age"]) > 0
        until(lambda: camera(address, "yard")["steps"] > before + 2)
        rtsp.start()
        back = until(lambda: (found := camera(address, "front"))["state"] == "live" and found)
        assert back["reason"] is None
        until(lambda: camera(address, "front")["steps"] > lost["steps"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], tuple[str, subprocess.Popen[str]]]]:
    """Starts the command with one camera, in a folder of its own."""
    running = list[subprocess.Popen[str]]()

    def started() -> tuple[str, subprocess.Popen[str]]:
        given = ["--port", "0", "--source", "front=synthetic://?live=1", "--threads", "1"]
        process = subprocess.Popen([*COMMAND, *given], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        running.append(process)
        assert process.stderr
        return process.stderr.readline().split(" at ")[1].split("/v1")[0], process

    yield started
    for process in running:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def test_killed_and_started_again_there_is_nothing_to_repair(start: Any, tmp_path: Path) -> None:
    for last in (False, True):
        address, process = start()
        until(lambda here=address: camera(here, "front")["steps"] > 1)
        assert json.loads(ask(address, "front").text)["choices"][0]["message"]["content"]
        assert not list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
        assert process.wait(30) == (0 if last else -signal.SIGKILL)  # 0: everything was closed


def test_a_listener_without_end_does_not_keep_the_server_from_ending(start: Any) -> None:
    address, process = start()
    with httpx.stream("GET", f"{address}/live/events", timeout=30) as events:
        next(events.iter_lines())
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert time.monotonic() - began < 4
