"""``score-edge stream`` as a user runs it: pipes, a terminal, signals, a recording."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.reference.endless import EndlessWorld

pytest.importorskip("llama_cpp")

COMMAND = [sys.executable, "-c", "from score_edge.cli import main; main()", "stream", "reference"]
QUESTION = "how many things moved fast?"


def stream(*arguments: str | Path, give: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([*COMMAND, *map(str, arguments)], input=give, capture_output=True, timeout=180)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def events(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.decode().splitlines()]


def test_json_lines_of_a_stream_that_ends() -> None:
    asked = ("--ask", QUESTION, "--every", "4s")
    done = stream("--source", "synthetic://?steps=20", "--json", "--selector", "last-kept", *asked)
    assert done.returncode == 0 and not done.stderr
    started, *found = events(done.stdout)
    assert started["event"] == "runs_on" and (started["encoder"], started["precision"]) == ("CPU", "fp32")
    steps = [event for event in found if event["event"] == "step"]
    answers = [event for event in found if event["event"] == "answer"]
    assert [event["step"] for event in steps] == list(range(20))
    assert steps[0]["kept"] == list(range(36)) and steps[0]["of"] == 36
    assert len(answers) == 2 and all(event["text"] and event["why"] == "every" for event in answers)


def test_lines_on_standard_input_are_questions_and_answers_go_to_stdout() -> None:
    done = stream("--source", "synthetic://?steps=20", give=f"{QUESTION}\n\n{QUESTION}\n".encode())
    assert done.returncode == 0
    assert done.stdout.decode().count(QUESTION) == 2


def test_a_stream_that_ends_before_its_question_is_due_says_so() -> None:
    done = stream("--source", "synthetic://?steps=6", "--ask", QUESTION)
    assert done.returncode == 0 and not done.stdout
    assert "--ask was never due: it is asked every 10 s" in done.stderr.decode()


def test_answers_of_a_stream_are_drawn_as_it_is_told() -> None:
    def answers(seed: int) -> list[str]:
        drawn = ("--temperature", "50", "--seed", str(seed), "--max-tokens", "8")
        asked = ("--ask", QUESTION, "--every", "2s", "--json")
        found = events(stream("--source", "synthetic://?steps=12", *asked, *drawn).stdout)
        return [event["text"] for event in found if event["event"] == "answer"]

    assert answers(7) == answers(7) != answers(8)


def test_several_cameras_by_name(tmp_path: Path) -> None:
    sources = ("--source", "front=synthetic://?steps=12", "--source", "yard=synthetic://?steps=16&seed=9")
    record = ("--record", tmp_path / "seen.mkv")
    typed = f"yard> {QUESTION}\n{QUESTION}\nhall> {QUESTION}\n".encode()
    found = events(stream(*sources, "--json", *record, give=typed).stdout)
    steps = {
        name: [e["step"] for e in found if e["event"] == "step" and e["camera"] == name] for name in ("front", "yard")
    }
    assert steps == {"front": list(range(12)), "yard": list(range(16))}
    answers = [(event["camera"], bool(event["text"])) for event in found if event["event"] == "answer"]
    assert sorted(answers) == [("", True), ("yard", True)]
    assert "not asked: there is no camera 'hall'" in [event.get("text") for event in found]


def test_raw_frames_on_standard_input() -> None:
    frames = EndlessWorld().scene(0).images[:8]
    done = stream("--source", "-?size=96x96&fps=4", "--json", give=frames.tobytes() + b"cut")
    found = events(done.stdout)
    assert [event["event"] for event in found] == ["runs_on"] + ["step"] * 4 + ["notice"]
    assert "cut off" in found[-1]["text"]


def test_a_recording_of_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    assert stream("--source", "synthetic://?steps=12", "--record", path).returncode == 0
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 12 and capture.get(cv2.CAP_PROP_FPS) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "rtsp://127.0.0.1:1/x"], 1, "gives no picture"),
        (["--source", "nowhere.mp4"], 1, "does not exist"),
        (["--source", "synthetic://", "--selector", "vidcom2"], 1, "needs a whole clip"),
        (["--source", "synthetic://", "--context", "512"], 1, "do not hold one step"),
        (["--source", "synthetic://", "--record", "out.gif"], 1, "cannot be recorded"),
        (["--source", "synthetic://", "--every", "soon"], 2, "not a time"),
        (["--source", "synthetic://", "--fps", "0"], 1, "impossible"),
    ],
)
def test_what_cannot_be_streamed(arguments: list[str], code: int, message: str) -> None:
    done = stream(*arguments)
    assert done.returncode == code
    assert message in " ".join(done.stderr.decode().split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_signals_end_a_live_stream_at_once(number: signal.Signals, code: int, tmp_path: Path) -> None:
    arguments = ["--source", "synthetic://?live=1", "--json", "--record", str(tmp_path / "seen.mkv")]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    assert b'"runs_on"' in process.stdout.readline()
    for _ in range(3):
        assert b'"step"' in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    _out, err = process.communicate(timeout=20)
    assert process.returncode == code and not err
    assert time.monotonic() - began < 2
    if code == 0:
        capture = cv2.VideoCapture(str(tmp_path / "seen.mkv"))
        assert capture.grab()


@pytest.mark.parametrize("form", [["--json"], ["--ask", QUESTION, "--every", "500ms"]])
def test_a_stream_ends_when_nobody_reads_it_any_more(form: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--source", "synthetic://?live=1", *form],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and process.stderr
    with contextlib.closing(process.stdout):
        assert process.stdout.readline()
    try:
        assert process.wait(20) == 1 and b"Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_a_person_at_a_terminal(tmp_path: Path) -> None:
    """Watches the panel, types a question with a typing error, and leaves with Ctrl-C."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    arguments = ["--source", "synthetic://?live=1"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    seen = ""

    def wait_for(text: str, timeout_s: float = 60) -> bool:
        nonlocal seen
        end = time.monotonic() + timeout_s
        while text not in seen and time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    seen += os.read(ours, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return text in seen

    assert wait_for("visual tokens"), seen
    os.write(ours, b"how many things moved fastt\x7f?\r")
    assert wait_for("[first word"), seen[-3000:]
    assert "how many things moved fast?" in seen and Bundle.open("reference").manifest.selector.name in seen
    process.send_signal(signal.SIGINT)
    wait_for("never", 1)
    assert process.wait(20) == 0
    assert "Traceback" not in seen
    if place := os.environ.get("SCORE_EDGE_TRANSCRIPT"):
        Path(place).write_text(seen, encoding="utf-8")


def test_gate_finds_a_threshold_and_writes_it_into_the_bundle(tmp_path: Path) -> None:
    from score_edge.bundle.folder import Bundle, write_bundle

    rng = np.random.default_rng(0)
    scene = EndlessWorld().scene(0).images[0][..., ::-1].astype(float)
    video = tmp_path / "still.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 4.0, (96, 96))
    for _ in range(40):
        writer.write(np.clip(scene + rng.standard_normal(scene.shape), 0, 255).astype(np.uint8))
    writer.release()
    reference = Bundle.open("reference")
    bundle = write_bundle(tmp_path / "bundle", reference.manifest, reference.paths)
    command = [*COMMAND[:3], "gate", str(bundle.folder), "--video", str(video), "--divergence", "0.2"]
    done = subprocess.run([*command, "--json", "--save"], capture_output=True, timeout=120, check=True)
    report = json.loads(done.stdout)
    (chosen,) = (trial for trial in report["trials"] if trial["threshold"] == report["threshold"])
    assert chosen["divergence"] <= 0.2 and chosen["encoded"] < 0.2 and chosen["agreement"] > 0.5
    assert Bundle.open(bundle.folder).manifest.vision.threshold == report["threshold"] > 0


def in_terminal(term: str, typed: bytes, until: str) -> str:
    """What a terminal of this kind gets while something is typed into it."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [*COMMAND, "--source", "synthetic://?live=1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    seen, end, sent = "", time.monotonic() + 60, False
    while until not in seen and time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                seen += os.read(ours, 65536).decode("utf-8", "replace")
            except OSError:
                break
        if not sent and ("visual tokens" in seen or "runs on" in seen or "encoder on" in seen):
            os.write(ours, typed)
            sent = True
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):
        while os.read(ours, 65536):
            pass
    assert process.wait(20) == 0
    assert until in seen and "Traceback" not in seen, seen[-3000:]
    return seen


def test_a_dumb_terminal_gets_lines() -> None:
    seen = in_terminal("dumb", f"{QUESTION}\n".encode(), f"s] {QUESTION}  ")
    assert "encoder on CPU, fp32" in seen and "\x1b" not in seen


def test_arrow_keys_are_no_text() -> None:
    seen = in_terminal("xterm", b"how many\x1b[D\x1b[A\x1bOP things moved fast?\r", "[first word")
    assert QUESTION in seen and "[D" not in seen.replace("\x1b[D", "")


def test_a_question_without_a_final_newline_is_asked() -> None:
    done = stream("--source", "synthetic://?steps=20", give=QUESTION.encode())
    assert done.returncode == 0 and done.stdout.decode().count(QUESTION) == 1
