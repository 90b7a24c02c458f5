"""Every command with odd sources, names, outputs and options: one message, exit code 1 or 2, nothing half-written.

A fault that was found becomes a line of a table here: the command line, the exit code, and a part of what is said.
"""

import os
from pathlib import Path
from typing import Any

import pytest

Case = tuple[str, int, str]
LONG = "x" * 300

SOURCES: list[Case] = [
    ("ask reference nowhere.mp4 what?", 1, "does not exist"),
    ("ask reference text.mp4 what?", 1, "text.mp4"),
    ("ask reference empty.mp4 what?", 1, "empty.mp4"),
    ("ask reference broken what?", 1, "broken"),
    (f"ask reference {LONG} what?", 1, "x"),
    ("ask reference ftp://a/b what?", 1, "ftp:// is not a source"),
    ("ask reference rtsp://ann:secret@127.0.0.1:1/x what?", 1, "gives no picture"),
    ("stream reference --source nowhere", 1, "does not exist"),
    ("stream reference --source text.mp4", 1, "text.mp4"),
    ("stream reference --source synthetic://?steps=no", 1, "steps"),
    ("stream reference --source -?size=0x0", 1, "size"),
    ("evaluate reference --video nowhere.mp4 --boxes nowhere.json", 1, "nowhere"),
    ("profile --source text.mp4 --runs 1", 1, "text.mp4"),
    ("demo --source text.mp4", 1, "text.mp4"),
    ("gate reference --video text.mp4", 1, "text.mp4"),
    ("calibrate reference --video text.mp4 -o new", 1, "text.mp4"),
    ("export nowhere -o new --llm nowhere.gguf", 1, "nowhere"),
    ("export images -o new --llm nowhere.gguf", 1, "config.json"),
    ("train policy -o new --bundle nowhere", 1, "nowhere is not a bundle"),
    ("train adapter -o new --checkpoint images", 1, "config.json"),
]
NAMES: list[Case] = [
    ("inspect [/INST]", 1, "[/INST] is not a bundle"),
    ("ask [/INST] x.mp4 what?", 1, "[/INST] is not a bundle"),
    ("ask reference [bold]x[/bold] what?", 1, "[bold]x[/bold] does not exist"),
    ("ask reference \x1b[2J\x1b[1;1H what?", 1, "␛[2J␛[1;1H does not exist"),
    ("ask reference a\nhint:b what?", 1, "error: a␤hint:b does not exist"),
    ("ask reference :smile: what?", 1, ":smile: does not exist"),
    ("ask reference a\x9b2Jb what?", 1, "does not exist"),
    ("ask reference x.mp4 what? --selector [/x]", 1, "[/x]"),
    ("build broken --dry-run", 1, "is not valid JSON"),
    ("doctor broken", 1, ""),
    ("profile broken", 1, "is not valid JSON"),
    ("evaluate broken", 1, "is not valid JSON"),
    ("[/x]", 2, "[/x]"),
]
OUTPUTS: list[Case] = [
    ("ask reference images what? --save-overlay images/0.png", 1, "would be overwritten"),
    ("ask reference images/0.png what? --save-overlay images/0.png", 1, "would be overwritten"),
    ("ask reference file://images/0.png what? --save-overlay images/../images/0.png", 1, "would be overwritten"),
    ("ask reference images what? --save-overlay out.gif", 1, "out.gif"),
    ("ask reference images what? --save-overlay images", 1, "is a folder"),
    ("ask reference images what? --save-overlay text.mp4/out.png", 1, "is no folder"),
    (f"ask reference images what? --save-overlay {LONG}.png", 1, "too long"),
    ("stream reference --source text.mp4 --record text.mp4", 1, "would be overwritten"),
    ("stream reference --source synthetic:// --record out.gif", 1, "cannot be recorded"),
    ("stream reference --source synthetic:// --record nowhere/out.mp4", 1, "there is no folder"),
    ("demo --overlay text.mp4/x.png", 1, "is no folder"),
    ("demo --overlay out.txt", 1, "out.txt"),
    ("demo --source images --overlay images/1.png", 1, "would be overwritten"),
    ("profile --report text.mp4 --source text.mp4", 1, "would be overwritten"),
    ("profile --report text.mp4 --against text.mp4", 1, "would be overwritten"),
    ("profile --report a.json --trace a.json", 1, "the same name"),
    ("profile broken --html broken/bundle.json", 1, "would be overwritten"),
    ("evaluate reference --plot out.txt", 1, "out.txt"),
    ("evaluate reference --plot text.mp4/out.png", 1, "is no folder"),
    ("calibrate reference --video images -o new --plot out.txt", 1, "out.txt"),
    ("calibrate reference --video images -o images", 1, "already exists"),
    ("train policy --bundle new/bundle -o new", 1, "would be overwritten"),
    ("train policy --still-share 0 --images images -o new", 2, "--images does nothing"),
    ("train policy --videos images --scenes 4 -o new", 2, "--scenes does nothing"),
    ("calibrate reference --video images -o images --overwrite", 1, "is not a bundle and will not be overwritten"),
    ("gate reference --video images --save", 1, "the shipped bundle stays as it is"),
    ("train reference -o text.mp4/new", 1, "is no folder"),
    ("train policy -o text.mp4/new", 1, "is no folder"),
    ("train adapter -o text.mp4/new", 1, "is no folder"),
    ("train adapter --bundle new/bundle -o new", 1, "would be overwritten"),
    ("train adapter --videos images --scenes 4 -o new", 2, "--scenes does nothing"),
]
OPTIONS: list[Case] = [
    ("stream reference --source synthetic:// --every 3s", 2, "--every does nothing"),
    ("stream reference --source synthetic:// --when-surprised", 2, "--when-surprised does nothing"),
    ("stream reference --source synthetic:// --full-encoder --change-threshold 1", 2, "--change-threshold does"),
    ("ask reference images what? --full-encoder --change-threshold 1", 2, "--change-threshold does nothing"),
    ("stream reference --source synthetic:// --ask a --every nan", 2, "is not a time"),
    ("stream reference --source synthetic:// --ask a --every -5s", 2, "is not a time"),
    ("stream reference --source synthetic:// --ask a --every 0s", 2, "is not a time"),
    ("stream reference --source synthetic:// --ask a --every 5sm", 2, "is not a time"),
    ("stream reference --source synthetic:// --context 100", 1, "do not hold one step"),
    ("ask reference images what? --selector all --retention 0.5", 2, "--retention does nothing"),
    ("evaluate reference --video a --boxes b --clips 3", 2, "--clips does nothing"),
    ("evaluate reference --retention nan", 2, "is not a list"),
    ("evaluate reference --steps 1e999", 2, "is not a list"),
    ("profile --visual-tokens 100", 2, "--visual-tokens does nothing"),
    ("profile --llm-shape qwen2.5-0.5b --backend tensorrt-llm:x", 2, "--backend does nothing"),
    ("profile --llm-shape qwen2.5-0.5b --source x", 2, "--source does nothing"),
    ("build reference --check --workspace 5", 2, "--workspace does nothing"),
]


@pytest.mark.parametrize("case", [*SOURCES, *NAMES, *OUTPUTS, *OPTIONS], ids=lambda case: case[0][:60])
def test_what_is_refused(case: Case, run: Any, place: Path) -> None:
    line, code, said = case
    before = contents(place)
    done = run(*line.split(" "))
    stderr = " ".join(done.stderr.split())
    assert done.code == code, stderr
    assert said in stderr and len(stderr) < 2500
    assert not any(hidden in stderr for hidden in ("secret", "\x1b", "\x9b"))
    assert contents(place) == before
    assert line.startswith("doctor") or not done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder; two calls are equal where nothing was written."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def commands() -> dict[str, list[Any]]:
    """The parameters of every command, by how it is called."""
    import typer.main

    from score_edge.cli import app

    found: dict[str, list[Any]] = {}

    def walk(command: Any, path: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[path] = list(command.params)
        for name in inner or ():
            walk(inner[name], f"{path} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


def test_no_option_takes_nan() -> None:
    """Bounds alone let it through. It is parsing that refuses, which needs no process of its own."""
    from typer.testing import CliRunner

    from score_edge.cli import app

    checked = 0
    for path, parameters in commands().items():
        needed: list[str] = []
        for parameter in parameters:
            if parameter.required:
                needed += [parameter.opts[0], "x"] if parameter.param_type_name == "option" else ["x"]
        for parameter in parameters:
            if "float" in str(getattr(parameter, "type_descriptor", "")):
                done = CliRunner().invoke(app, [*path.split(), *needed, parameter.opts[0], "nan"])
                assert done.exit_code == 2, (path, parameter.opts, done.output)
                checked += 1
    assert checked >= 9


@pytest.mark.parametrize("name", ["out.png", "out.mp4"])
def test_a_disk_that_fills_up_is_said(name: str, run: Any, place: Path) -> None:
    """Files may have 2 kB here: an answer is given, its picture is not, and nothing is left of it."""
    before = contents(place)
    done = run("ask", "reference", "images", "what?", "--save-overlay", name, room=2048)
    assert done.code == 1 and f"{name} cannot be written" in done.stderr
    assert done.stdout.strip() and "tokens kept" in done.stderr
    assert contents(place) == before


def test_figures_are_shown_when_their_file_cannot_be_written(run: Any) -> None:
    little = "--runs 1 --steps 2 --retention 1 --answer-tokens 1 --threads 1"
    done = run(*f"profile {little} --report /dev/full".split())
    assert done.code == 1 and "cannot write /dev/full" in done.stderr
    assert "retentions interleaved" in done.stdout


@pytest.mark.parametrize("line", ["doctor --json", "inspect reference", "inspect reference --json", "--version"])
def test_no_room_on_stdout(line: str, run: Any) -> None:
    done = run(*line.split(), stream=1, to="/dev/full")
    assert done.code == 1 and "cannot be written" in done.stderr


@pytest.mark.parametrize(
    "line", ["inspect reference", "inspect reference --json", "stream reference --source synthetic://?steps=4 --json"]
)
def test_a_reader_that_goes_ends_it_quietly(line: str, run: Any) -> None:
    done = run(*line.split(), stream=1, to="gone")
    assert done.code in (0, 1) and done.stderr == ""


def test_without_a_home(run: Any) -> None:
    nobody = {"HOME": "", "XDG_CACHE_HOME": ""}
    assert run("doctor", "--json", env=nobody).code in (0, 1)
    done = run("profile", "--llm-shape", "nonsense", env=nobody)
    assert done.code == 1 and "no LLM shape" in done.stderr


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_streams_that_are_closed(stream: int, run: Any) -> None:
    assert run("inspect", "nowhere", stream=stream).code == 1


def test_a_terminal_without_special_characters(run: Any) -> None:
    plain = {"PYTHONIOENCODING": "ascii"}
    assert run("inspect", "reference", env=plain).code == 0
    done = run("ask", "reference", os.fsdecode(b"\xff\xfe.mp4"), "what?", env=plain)
    assert done.code == 1 and "does not exist" in done.stderr
