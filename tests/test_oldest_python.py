"""Nothing newer than JetPack 6's Python 3.10: `make check` runs both of these, and both see what is planted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEWER = {
    "datetime.UTC": "import datetime\nx = datetime.UTC\n",
    "tomllib": "import tomllib\n",
    "typing.Self": "from typing import Self\n\n\nclass A:\n    def me(self) -> Self:\n        return self\n",
    "enum.StrEnum": "from enum import StrEnum\n",
    "except*": "try:\n    pass\nexcept* ValueError:\n    pass\n",
}


def vermin(path: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("vermin")
    line = next(line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "/vermin " in line)
    options = [word for word in line.split() if word.startswith("--")]
    command = [sys.executable, "-c", "from vermin import main; main()", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", NEWER)
def test_what_is_newer_is_caught(name: str, tmp_path: Path) -> None:
    if name == "except*" and sys.version_info < (3, 11):
        pytest.skip("this Python cannot read it at all")
    (tmp_path / "planted.py").write_text(NEWER[name])
    done = vermin(tmp_path)
    assert done.returncode == 1 and "Target versions not met" in done.stdout, done.stdout


def test_what_3_10_has_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text("x: int | None = None\nmatch x:\n    case None:\n        pass\n")
    assert vermin(tmp_path).returncode == 0


def test_a_method_of_an_instance_is_mypys_to_catch(tmp_path: Path) -> None:
    """vermin does not know what type `folder` has."""
    pytest.importorskip("mypy")
    (tmp_path / "planted.py").write_text(
        "from pathlib import Path\n\n\ndef f(folder: Path) -> None:\n    folder.walk()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "planted.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 1 and '"Path" has no attribute "walk"' in done.stdout, done.stdout + done.stderr
