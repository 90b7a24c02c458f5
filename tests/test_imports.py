"""Which room may import which: the arrows of docs/architecture.md, one direction, no circles."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = {"": "score_edge", "runtime": "runtime", "export": "export", "calibration": "calibration"}
# Everything may import core, errors, install, native_path, families and workers. `runtime` is what lies loose there.
MAY_IMPORT = {
    "bundle": "",
    "onnx_files": "",
    "reference": "",
    "selection": "",
    "runtime.graphs": "bundle onnx_files selection",
    "runtime.language": "bundle runtime runtime.graphs",
    "runtime.sources": "bundle reference runtime",
    "runtime": "bundle selection runtime.graphs runtime.language",
    "runtime.live": "bundle runtime runtime.language runtime.sources selection",
    "evaluation": "bundle reference selection runtime runtime.graphs runtime.language runtime.live runtime.sources",
    "calibration": "bundle evaluation onnx_files selection runtime runtime.graphs runtime.live runtime.sources",
    "engines": "bundle calibration onnx_files runtime runtime.graphs runtime.sources",
    "export": "bundle onnx_files runtime runtime.graphs runtime.language runtime.sources",
    "learning": "bundle export reference selection runtime runtime.graphs runtime.language runtime.sources",
    "profiling": "bundle reference selection runtime runtime.graphs runtime.language runtime.sources",
    "serve": "bundle profiling runtime runtime.language runtime.live runtime.sources",
    "doctor": "bundle onnx_files profiling runtime.graphs runtime.language runtime.sources",
}


def room(module: str) -> str:
    """The folder a module lies in; a package belongs to itself."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in ("core", "errors", "install", "native_path", "families", "workers", "cli"):
        return ""
    inner = parts[0] == "runtime" and (ROOT / "runtime" / (parts[1] if len(parts) > 1 else "")).is_dir()
    return ".".join(parts[:2]) if inner and len(parts) > 1 else parts[0]


def imports() -> dict[str, set[str]]:
    """Room to rooms, cli and core aside."""
    arrows: dict[str, set[str]] = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder).with_suffix("").parts
            here = room(".".join(filter(None, ("score_edge", package, *inside))).removesuffix(".__init__"))
            if not here:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                found = {room(name) for name in names if name.startswith("score_edge.")}
                arrows.setdefault(here, set()).update(found - {here, ""})
    return arrows


def test_imports_are_those_of_the_table() -> None:
    allowed = {here: set(rooms.split()) for here, rooms in MAY_IMPORT.items()}
    found = imports()
    assert {here: rooms - allowed[here] for here, rooms in found.items() if rooms - allowed[here]} == {}


def test_nothing_but_the_command_line_imports_the_command_line() -> None:
    for folder in ("score_edge", "runtime", "export", "calibration"):
        for path in (ROOT / folder).rglob("*.py"):
            if "cli" not in path.parts:
                assert "score_edge.cli" not in path.read_text(encoding="utf-8"), path


def test_the_table_has_no_circle_between_folders() -> None:
    """Inside runtime/ the loose modules and the subfolders are one room here: pipeline.py ties them together."""
    whole = {name.split(".")[0]: set[str]() for name in MAY_IMPORT}
    for here, rooms in MAY_IMPORT.items():
        whole[here.split(".")[0]] |= {name.split(".")[0] for name in rooms.split()} - {here.split(".")[0]}
    while whole:
        leaves = {name for name, rooms in whole.items() if not rooms}
        assert leaves, f"a circle among {sorted(whole)}"
        whole = {name: rooms - leaves for name, rooms in whole.items() if name not in leaves}
