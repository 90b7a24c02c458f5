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
OPTIONAL = ["torch", "transformers", "tensorrt", "llama_cpp", "cv2", "onnxruntime", "onnx", "gguf", "safetensors"]
OPTIONAL += ["matplotlib", "pycuda", "fastapi", "uvicorn", "pydantic", "prometheus_client", "paho"]
# Packages that are about torch from end to end: they refuse as a whole, and say which extra brings it.
NEEDS_EXTRA = {"score_edge.export": "export", "score_edge.learning": "train", "score_edge.serve": "serve"}
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
    ("extras", "wanted"),
    [
        ([], []),
        (["jetson"], ["llama-cpp-python"]),
        (["pc"], ["llama-cpp-python", "onnxruntime", "opencv-python-headless"]),
        (["gpu"], ["llama-cpp-python", "onnxruntime-gpu", "opencv-python-headless"]),
        (["jetson", "tensorrt"], ["llama-cpp-python", "onnx"]),
    ],
)
def test_what_an_installation_brings(extras: list[str], wanted: list[str]) -> None:
    """Nothing that runs a model to a Jetson but llama.cpp; one ONNX Runtime to a PC: two fill the same folder."""
    requirements = pytest.importorskip("packaging.requirements")
    names = set()
    for text in importlib.metadata.requires("score-edge") or []:
        want = requirements.Requirement(text)
        if want.marker is None or any(want.marker.evaluate({"extra": extra}) for extra in extras or [""]):
            names.add(want.name)
    assert names == {"numpy", "rich", "typer", *wanted}


def test_no_other_extra_brings_a_second_onnxruntime_or_opencv() -> None:
    for extra, wants in PROJECT["project"]["optional-dependencies"].items():
        if extra not in ("pc", "gpu"):
            assert not [want for want in wants if want.startswith(("onnxruntime", "opencv"))], extra
