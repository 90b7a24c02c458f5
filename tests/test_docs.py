"""What README and docs tell people to type is typed here, on the reference bundle and with small arguments.

What cannot run on every machine stands in ELSEWHERE with the reason; it is parsed by the command line all the same.
"""

import doctest
import importlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from score_edge.bundle.folder import REFERENCE
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# The first that a command contains says why it does not run here.
ELSEWHERE = {
    r"^sudo |sudo install|-m venv|^export |^rsync ": "changes the system, or another one",
    r"pip install": "downloads; that the extras exist is checked",
    r"^make ": "the suite itself, and the demo, which tests/cli/test_commands.py runs",
    r"^accelerate launch": "several processes, a minute of start-up",
    r"-m benchmark": "measures time",
    r"rtsp://|v4l2://": "a camera",
    r"score-edge serve": "never ends; tests/serve/ runs servers",
    r"score-edge export|my-bundle": "a published checkpoint; tests/export/ makes small ones",
    r"seed=5&steps=400": "the figures of docs/int8.md: the commands above them with more footage",
    r"AutoModelForImageTextToText": "a published checkpoint; tests/export/test_adapters.py merges into small ones",
    r"--llm-shape": "writes gigabytes of random weights; tests/profiling/test_llm_shapes.py writes few",
    r"score-edge build \S+( --implicit .*)?$": "an NVIDIA GPU; tests/engines/ builds over fakes",
    r"score-edge build \S+ --check": "half a minute; tests/engines/test_rtx_check.py does it",
}
SMALL = {
    "ask": ("--max-tokens", "4", "--steps", "8", "--runs", "1"),
    "stream": (),
    "evaluate": ("--clips", "2", "--steps", "4"),
    "profile": ("--runs", "1", "--steps", "8", "--answer-tokens", "2"),
    "calibrate": ("--frames", "4", "--clips", "0", "--overwrite", "--only", "*fc1*"),
    "gate": (),
    "build": (),
    "inspect": (),
    "doctor": (),
    "train adapter": ("--steps", "2", "--clips", "1", "--scenes", "2", "--clip-steps", "4"),
    "train query": ("--steps", "2", "--clips", "1", "--scenes", "2", "--clip-steps", "4"),
    "train policy": (
        "--steps",
        "2",
        "--clips",
        "1",
        "--rollouts",
        "2",
        "--scenes",
        "2",
        "--warm-steps",
        "1",
        "--clip-steps",
        "4",
    ),
}
PLACES = {
    "BUNDLE": "bundle/",
    "synthetic://?live=1": "synthetic://?steps=6",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """Lines of the blocks of a page that are commands, comments cut off."""
    for language, text in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if not language else ():
            command = re.sub(r"\s+#\s.*", "", line).strip()
            if re.match(r"(score-edge|make|pip|python3?|sudo|accelerate|[A-Z_]+=\S+) ", command):
                yield re.sub(r"\s+", " ", command)


def spans(page: Path) -> Iterator[str]:
    """Commands in running text that are whole: with arguments and without an ellipsis."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`(score-edge [^`]+)`", text):
        if "…" not in span and len(span.split()) > 2:
            yield " ".join(span.split())


def reason(command: str) -> str | None:
    return next((why for pattern, why in ELSEWHERE.items() if re.search(pattern, command)), None)


def words(command: str) -> list[str]:
    return [PLACES.get(word, word) for word in shlex.split(command)][1:]


def name_of(arguments: list[str]) -> str:
    return " ".join(arguments[: 2 if arguments[0] == "train" else 1])


def parse(arguments: list[str], *, whole: bool) -> None:
    """Let the command line read the arguments and do nothing; what is not whole may leave out required ones."""
    import typer

    from score_edge.cli import app

    group: Any = typer.main.get_command(app)
    leaves = [group.commands[name] for name in group.commands if name != "train"]
    for leaf in (*leaves, *group.commands["train"].commands.values()):
        leaf.callback = lambda **given: None
    try:
        group.main(arguments, standalone_mode=False)
    except Exception as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    from score_edge.cli import main

    monkeypatch.setattr(sys, "argv", ["score-edge", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages name: clips, boxes, a bundle."""
    import cv2

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    (tmp_path / "docs").mkdir()
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), world.FPS, (world.SIZE, world.SIZE))
    for image in world.make_clip(world.TEST_SEED, 1, 16).images:
        writer.write(image[..., ::-1])
    writer.release()
    shutil.copy("clip.mp4", "site.mp4")
    shutil.copy("clip.mp4", "recordings/monday.mp4")
    box = {"box": [0, 0, world.SIZE // 2, world.SIZE // 2]}
    labels = {"width": world.SIZE, "height": world.SIZE, "frames": {str(frame): [box] for frame in range(8)}}
    Path("clip.gt.json").write_text(json.dumps(labels))
    for bundle in ("bundle", "vlm/bundle"):
        shutil.copytree(REFERENCE, bundle)
    return tmp_path


def small(arguments: list[str]) -> list[str]:
    """What makes a command short; nothing that would be refused because it does nothing there."""
    found = list(SMALL[name_of(arguments)])
    if "--video" in arguments and arguments[0] == "evaluate":
        return []
    if "--videos" in arguments:
        del found[(at := found.index("--scenes")) : at + 2]
    return [*found, *(["--tune", "1"] if "--tune" in arguments else [])]


def test_commands_of_the_pages_run(place, monkeypatch, capsys) -> None:
    """In the order of the pages, each once: what one writes, another reads."""
    pytest.importorskip("llama_cpp")
    for module in ("torch", "onnx", "matplotlib"):
        pytest.importorskip(module)
    for command in dict.fromkeys(command for page in PAGES for command in commands(page) if reason(command) is None):
        arguments = words(command)
        assert command.startswith("score-edge "), f"{command}: neither run nor in ELSEWHERE"
        code = run([*arguments, *small(arguments)], monkeypatch)
        said = capsys.readouterr()
        # doctor tells by 1 that this machine lacks something
        assert code == 0 or (arguments[0] == "doctor" and code == 1), f"{command}\n{said.out}\n{said.err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_is_read_by_the_command_line(page, place) -> None:
    for command in commands(page):
        if command.startswith("score-edge "):
            parse(words(command), whole=True)
    for command in spans(page):
        parse(words(command), whole=False)


def test_what_runs_elsewhere_is_there() -> None:
    """Targets of make, test files, extras; and no reason without a command."""
    named = [command for page in PAGES for command in commands(page)]
    makefile, project = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "pyproject.toml"))
    for command in named:
        if target := re.match(r"make (\S+)", command):
            assert f"\n{target.group(1)}:" in makefile, command
        for path in re.findall(r"pytest (\S+)", command):
            assert (ROOT / path).exists(), command
        for extra in re.findall(r'pip install "\.\[(.*?)\]"', command):
            assert all(f"\n{name} = [" in project for name in extra.split(",")), command
    assert [pattern for pattern in ELSEWHERE if not any(re.search(pattern, command) for command in named)] == []
    assert len([command for command in named if reason(command) is None]) > 20


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "add-a-model.md"], ids=lambda page: page.name)
def test_python_of_the_pages_runs(page, place, capsys) -> None:
    """docs/add-a-model.md is left out: its model does not exist."""
    pytest.importorskip("llama_cpp")
    for language, text in blocks(page):
        if language == "python":
            small = text.replace("runs=3", "runs=1").replace("steps=64", "steps=8")
            exec(compile(small, str(page), "exec"), {"__name__": "page"})
            assert capsys.readouterr().out


def modules() -> list[str]:
    folders = {"": "score_edge", "calibration.": "calibration", "export.": "export", "runtime.": "runtime"}
    return [
        "score_edge." + prefix + ".".join(path.relative_to(ROOT / folder).with_suffix("").parts)
        for prefix, folder in folders.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
        if ">>>" in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name.removesuffix(".__init__"))
    except ScoreEdgeError as error:
        pytest.skip(error.message)
    assert doctest.testmod(module).failed == 0
