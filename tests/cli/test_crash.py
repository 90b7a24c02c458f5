"""What nobody foresaw is one line, exit code 1 and a file with the details, without secrets."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import pytest

from score_edge.cli.crash import without_secrets

CRASH = """
import sys
from score_edge import cli
def crash():
    address = sys.argv[-1]
    raise RuntimeError(f"no luck with {address}\\nsecond line")
cli.app = crash
cli.main()
"""


ASKED = ["ask", "rtsp://ann:pa55word@camera/1?token=abc123"]


def crash(tmp_path: Path, program: str = CRASH, words: "list[str]" = ASKED) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin"})


def test_a_crash_is_one_line_and_a_file(tmp_path: Path) -> None:
    done = crash(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: something unforeseen went wrong: RuntimeError: no luck with rtsp://***@camera/***")
    (details,) = tmp_path.iterdir()
    assert str(details) in hint
    assert details.stat().st_mode & 0o077 == 0
    told = details.read_text()
    assert "Traceback" in told and "second line" in told and "in crash" in told
    assert "pa55word" not in told + done.stderr and "abc123" not in told + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--key", "pa55word"],
        ["--key=pa55word"],
        ["--key", "", "--key=pa55word"],
        ["--source", "front=rtsp://me:pa@ss/pa55word@camera/live"],
        ["--source", "rtsp://me:it's pa55word@camera/live"],
        ["--source", "rtsp://camera/user=me_password=pa55word.sdp"],
        ["--mqtt", "mqtt://me:pa55word@broker"],
    ],
)
def test_no_secret_of_the_command_line_is_in_the_file(tmp_path: Path, words: list[str]) -> None:
    crash(tmp_path, words=["serve", "reference", *words])
    (details,) = tmp_path.iterdir()
    told = details.read_text()
    assert "'serve', 'reference', '--" in told and "Traceback" in told
    assert "pa55word" not in told


def test_without_a_temporary_folder_the_line_remains(tmp_path: Path) -> None:
    nowhere = 'import tempfile; tempfile.tempdir = "/nowhere"\n'
    done = crash(tmp_path, nowhere + CRASH)
    assert done.returncode == 1 and "something unforeseen" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_is_no_crash(tmp_path: Path) -> None:
    done = crash(tmp_path, CRASH.replace('RuntimeError(f"', 'KeyboardInterrupt(f"'))
    assert done.returncode == 130 and done.stderr == "" and not any(tmp_path.iterdir())


def test_secrets() -> None:
    assert without_secrets("rtsp://ann:pw@cam/1 and https://x/?api_key=1&a=2") == (
        "rtsp://***@cam/*** and https://x/***"
    )
    assert without_secrets("HF_TOKEN=hf_abcdefghijkl, token: xyz") == "HF_TOKEN=*** token: ***"
    assert without_secrets("12 of 288 tokens kept") == "12 of 288 tokens kept"


def test_ctrl_c_before_anything_has_begun(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'rich.progress': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from score_edge.cli import main; main()\n"
    )
    done = crash(tmp_path, program)
    assert done.returncode == 130 and done.stderr == ""


@pytest.mark.parametrize("times", [1, 4])
def test_ctrl_c_at_a_terminal_is_no_crash_of_worker_processes(times: int) -> None:
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "evaluate", "reference"]
    command += ["--steps", "4", "--selectors", "last-kept", "--retention", "0.1"]
    with subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 30
        while len(children.read_text().split()) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.5)
        try:
            for _ in range(times):
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                time.sleep(0.02)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the command", "to its processes too"])
@pytest.mark.parametrize("wait_s", [0.0, 1.0])
def test_a_terminated_command_ends_in_silence_and_leaves_nothing(
    send: Callable[[int, int], None], wait_s: float, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "evaluate", "reference"]
    command += ["--steps", "4", "--selectors", "last-kept", "--retention", "0.1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True, env=environment
    ) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until = time.monotonic() + 30
        while len(children.read_text().split()) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(wait_s)
        try:
            send(process.pid, signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (143, "", "") and not any(tmp_path.iterdir())


def test_ctrl_c_that_a_module_turned_into_an_error_of_its_own(tmp_path: Path) -> None:
    turned = "    try: raise KeyboardInterrupt\n    except BaseException as e: raise ImportError('failed') from e\n"
    done = crash(tmp_path, CRASH.replace("    address", turned + "    address"))
    assert done.returncode == 130 and done.stderr == "" and not any(tmp_path.iterdir())
