"""What reaches the terminal: text as it is, and nothing that moves the cursor."""

import io
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from score_edge.cli.event_lines import plain_lines
from score_edge.cli.family_table import family_table
from score_edge.cli.options import numbers, seconds
from score_edge.cli.tables import accuracy_tables, inspection_table
from score_edge.cli.terminal import Terminal, json_line, plain, print_piece
from score_edge.cli.typed_questions import TextKeys
from score_edge.evaluation.accuracy import Accuracy
from score_edge.families import ROWS
from score_edge.runtime.live.events import Notice

EVIL = "a [person] [/INST] :smile: \x1b[2J\x1b]0;title\x07 b\r\x9b1A\u202egnp.exe"
SHOWN = ("[person]", "[/INST]", ":smile:", "␛[2J", ".exe")


def shown(*parts: object) -> str:
    console = Terminal()
    console.file = io.StringIO()
    console.width = 200
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def table(cell: object) -> Table:
    made = Table(title=EVIL, caption=EVIL)
    made.add_column(EVIL)
    made.add_row(cell)
    return made


@pytest.mark.parametrize("part", [EVIL, Text(EVIL, style="bold"), table(EVIL), Panel(EVIL, title=Text(EVIL))])
def test_foreign_text_is_shown_and_does_nothing(part: object) -> None:
    said = shown(part)
    assert all(text in said for text in SHOWN), said
    assert not set(said) & set("\x1b\x07\r\x9b\u202e")


def test_a_table_in_a_file_is_not_folded_to_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    made = Table()
    for number in range(12):
        made.add_column(f"column {number:02}")
    made.add_row(*["97.4 (96-98)"] * 12)
    Terminal().print(made)
    assert capsys.readouterr().out.count("97.4 (96-98)") == 12


@pytest.mark.parametrize("width", [80, 40])
def test_no_cell_is_cut_off_on_a_narrow_screen(width: int) -> None:
    console = Terminal()
    console.file, console.width = io.StringIO(), width
    path, checksum = "/home/ann/models/" + "v" * 60, "0123456789abcdef" * 4
    console.print(inspection_table({"folder": path, "files": [{"file": "encoder.onnx", "sha256": checksum}]}))
    console.print(family_table(ROWS))
    shown = console.file.getvalue()
    assert "…" not in shown
    joined = re.sub(r"\s+", "", shown)
    assert path in joined and checksum in joined and "files.0.file" in joined
    if width == 80:
        assert all(f" {name} " in shown for name in ("LLaVA-OneVision", "Qwen2.5-VL", "Cosmos-Reason2"))


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (80, 2), (60, 3)])
def test_no_figure_of_evaluate_is_cut_in_two_on_a_narrow_screen(width: int, tables: int) -> None:
    kinds = ["overall", "color", "shape", "direction", "flash", "order", "drift", "count", "still"]
    rows = [
        Accuracy("last-kept", 0.25, 8, kind, 2.0, 20, 0.9875 - n / 10, 0.5, 1.0, 0.7) for n, kind in enumerate(kinds)
    ]
    console = Terminal()
    console.file, console.width = io.StringIO(), width
    made = list(accuracy_tables(rows, width))
    for table in made:
        console.print(table)
    shown = console.file.getvalue()
    assert len(made) == tables
    for word in (*kinds, "evidence", "(50.0-100.0)", *(f"{98.75 - 10 * n:.1f}" for n in range(len(kinds)))):
        assert f" {word} " in shown, word


def test_lines_and_pieces(capsys: pytest.CaptureFixture[str]) -> None:
    for character in EVIL:  # an answer comes in pieces, and a sequence may be cut anywhere
        print_piece(character)
    plain_lines(Notice(EVIL))
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert all(expected in text for expected in SHOWN)
        assert not set(text) & set("\x1b\x07\r\x9b\u202e")


def test_json_says_the_same_text_with_nothing_but_plain_characters() -> None:
    line = json_line({"answer": EVIL + "\ud800é"})
    assert json.loads(line)["answer"] == EVIL + "\ud800é"
    assert "é" in line and not set(line) & set("\x1b\x07\r\x9b\u202e\ud800")


def test_plain_leaves_lines_and_languages() -> None:
    assert plain("eins\n\tzwei é 日本 👍") == "eins\n\tzwei é 日本 👍"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["hello"], "hello"),
        (["he", "\x1b[A", "llo"], "hello"),  # up
        (["he\x1b", "[", "1;5", "Cllo"], "hello"),  # Ctrl-right, cut into pieces
        (["he\x1bOPllo"], "hello"),  # F1
        (["\x1b[200~pasted\x1b[201~"], "pasted"),
        (["\x1b[3~\x7f"], "\x7f"),
    ],
)
def test_keys_that_are_no_text(keys: list[str], text: str) -> None:
    reader = TextKeys()
    assert "".join(map(reader.of, keys)) == text


@pytest.mark.parametrize(
    ("text", "value"), [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1.5h", 5400), ("3", 3), (".5s", 0.5)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "nan", "inf", "-5s", "0", "0s", "5sm", "5 s x", "1e9s", "9" * 400, "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "kind"), [("nan", float), ("1,inf", float), ("", float), ("1e400", float), ("1.5", int)]
)
def test_what_is_no_list_of_numbers(text: str, kind: type) -> None:
    with pytest.raises(typer.BadParameter, match="is not a list"):
        numbers(text, kind)


@pytest.mark.skipif(shutil.which("bash") is None, reason="job control needs a shell")
def test_in_the_background_what_is_typed_is_for_others(tmp_path: Path) -> None:
    """A read would stop the process, as a terminal has it."""
    program, told = tmp_path / "program.py", tmp_path / "told"
    program.write_text(
        "import time\n"
        "from score_edge.cli.typed_questions import keys\n"
        "with keys(print):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(1.5)\n"
        "print('ended', flush=True)\n"
    )
    shell, ours = pty.fork()
    if shell == 0:
        os.execvp("bash", ["bash", "--norc", "-i"])
    try:
        os.write(ours, f"{sys.executable} {program} > {told} 2>&1 &\n".encode())
        until = time.monotonic() + 20
        while time.monotonic() < until and not (told.exists() and "ended" in told.read_text()):
            if told.exists() and "begun" in told.read_text():
                os.write(ours, b"true\n")
            if select.select([ours], [], [], 0.2)[0]:
                os.read(ours, 65536)
        assert told.read_text().split() == ["begun", "ended"]
    finally:
        os.write(ours, b"kill -KILL %1\nexit\n")
        os.close(ours)
        os.waitpid(shell, 0)


def test_no_command_writes_markup() -> None:
    """Nothing reads it any more: it would be shown."""
    import score_edge.cli

    for path in Path(score_edge.cli.__file__).parent.glob("*.py"):
        assert "[/" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(("words", "code"), [(["inspect", "reference"], 0), (["inspect", "nowhere"], 1)])
@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_are_closed_change_nothing(words: list[str], code: int, closed: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == code
    assert not any(tmp_path.iterdir())  # no report of a crash, and nothing written in the place of a stream
