"""Every way to install gives the whole package: wheel, sdist, editable, and `pip install .`; none needs the network."""

import importlib.util
import json
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

for module in ("build", "pip", "setuptools"):
    if importlib.util.find_spec(module) is None:  # importing it here would come after distutils, and fail
        pytest.skip(f"{module} is not installed", allow_module_level=True)
ROOT = Path(__file__).parent.parent
FOLDERS = ("calibration", "export", "runtime", "score_edge")
# From elsewhere, with the dependencies but no checkout in sight.
LOOK = """
import importlib.util, json, pathlib, sys
import score_edge
from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError

def there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ScoreEdgeError:  # its parent is there, and asks for torch
        return True

Bundle.open("reference")
assert (pathlib.Path(score_edge.__file__).parent / "serve/page/index.html").is_file()
print(json.dumps([score_edge.__file__, [name for name in json.loads(sys.argv[1]) if not there(name)]]))
"""


def modules() -> list[str]:
    """All of them, by the names they are imported under."""
    found = []
    for folder in FOLDERS:
        package = "score_edge" if folder == "score_edge" else f"score_edge.{folder}"
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.append(".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)))
    return [name.removesuffix(".__init__") for name in found]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git would clone, as far as an installation reads it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def call(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(checkout: Path, kind: str, folder: Path) -> Path:
    call(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", folder, checkout, cwd=folder)
    (made,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.mark.parametrize("route", ["wheel", "sdist", "editable", "folder"])
def test_the_whole_package_arrives(route: str, checkout: Path, tmp_path: Path) -> None:
    target = tmp_path / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", target, cwd=tmp_path)
    python = target / "bin" / "python"
    (packages,) = target.glob("lib/python*/site-packages")
    paths = dict.fromkeys(path for path in (*site.getsitepackages(), *sys.path) if path.endswith("-packages"))
    (packages / "dependencies.pth").write_text("\n".join(paths))
    what: list[str | Path] = {"editable": ["--editable", checkout], "folder": [checkout]}.get(route, [])
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--no-build-isolation", "--ignore-installed", "--disable-pip-version-check"]
    call(*pip, *(what or [built(checkout, route, tmp_path)]), cwd=tmp_path)
    origin, missing = json.loads(call(python, "-c", LOOK, json.dumps(modules()), cwd=tmp_path))
    assert Path(origin).is_relative_to(checkout if route == "editable" else target), origin
    assert missing == [] and len(modules()) > 100
    assert (Path(origin).parent / "py.typed").is_file()
    assert call(target / "bin" / "score-edge", "--version", cwd=tmp_path).strip() == "0.1.0"
