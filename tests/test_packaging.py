"""What is in the tree is in the wheel, imports on a board, and stays readable."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
MODULES = {
    ".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(".__init__"): path
    for package, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
}
OPTIONAL = ["torch", "transformers", "tensorrt", "llama_cpp", "cv2", "onnx", "gguf", "safetensors", "matplotlib"]
# Packages that are about torch from end to end: they refuse as a whole, and say which extra brings it.
NEEDS_EXTRA = {"score_edge.export": "export", "score_edge.learning": "train"}
LINES = 400

IMPORT_ALL = """
import importlib, importlib.abc, json, sys
optional, modules = json.loads(sys.argv[1])

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in optional:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failed[module] = f"{type(error).__name__}: {getattr(error, 'hint', error)}"
print(json.dumps(failed))
"""


def test_every_package_is_listed() -> None:
    found = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_everything_imports_without_optional_dependencies(tmp_path: Path) -> None:
    modules = [name for name, path in MODULES.items() if path.name != "__main__.py"]
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps([OPTIONAL, modules])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    expected = {
        module: f'ScoreEdgeError: pip install "score-edge[{extra}]"'
        for package, extra in NEEDS_EXTRA.items()
        for module in modules
        if module == package or module.startswith(f"{package}.")
    }
    assert json.loads(done.stdout) == expected


def test_extras_named_in_hints_exist() -> None:
    assert set(NEEDS_EXTRA.values()) <= PROJECT["project"]["optional-dependencies"].keys()


def test_files_stay_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


@pytest.mark.parametrize(
    ("extra", "runtime"), [("", "onnxruntime"), ("llama", "onnxruntime"), ("gpu", "onnxruntime-gpu")]
)
def test_an_installation_gets_exactly_one_onnxruntime(extra, runtime):
    """Both fill the same folder: with the two of them, the one installed last wins and neither can be removed."""
    requirements = pytest.importorskip("packaging.requirements")
    wanted = map(requirements.Requirement, importlib.metadata.requires("score-edge") or [])
    chosen = {want.name for want in wanted if want.marker is None or want.marker.evaluate({"extra": extra})}
    assert {name for name in chosen if name.startswith("onnxruntime")} == {runtime}
