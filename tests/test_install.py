"""The command for this kind of machine, and that it is what a user without the package reads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from score_edge import install
from score_edge.errors import ScoreEdgeError, require

ROOT = Path(__file__).parent.parent
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 1"


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(RELEASE)
    monkeypatch.setattr(install, "ROOT", tmp_path)
    return tmp_path


def test_a_pc_gets_everything_from_one_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "distribution_version", lambda name: None)
    for module in ("cv2", "onnxruntime", "llama_cpp.llama_cpp"):
        assert install.install_command(module) == 'pip install "score-edge[pc]"'
    assert install.install_command("torch", "export") == 'pip install "score-edge[export]"'
    # A second ONNX Runtime would overwrite the first.
    monkeypatch.setattr(install, "distribution_version", {"onnxruntime-gpu": "1.22"}.get)
    assert install.install_command("cv2") == 'pip install "score-edge[gpu]"'


def test_a_jetson_keeps_its_own(jetson: Path) -> None:
    assert install.install_command("llama_cpp") == 'pip install "score-edge[jetson]"'
    assert install.install_command("cv2").startswith("sudo apt install python3-opencv")
    assert install.install_command("onnxruntime").endswith("/jp6/cu126")
    (jetson / "etc/nv_tegra_release").write_text(RELEASE.replace("R36", "R38"))
    assert install.install_command("onnxruntime").endswith("/sbsa/cu130")


def test_a_container_on_a_jetson_is_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert not install.on_jetson()
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    assert install.on_jetson()


def test_an_opencv_without_gstreamer_makes_room_for_jetpacks(jetson: Path, monkeypatch) -> None:
    monkeypatch.setattr(install, "distribution_version", {"opencv-python-headless": "4.10"}.get)
    assert install.gstreamer_command().startswith("pip uninstall -y opencv-python-headless && sudo apt install")


@pytest.mark.parametrize("module", ["cv2", "onnxruntime"])
def test_running_without_it_is_an_error_with_the_command(module: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ScoreEdgeError, match=f"{module} is not installed") as caught:
        require(module)
    assert caught.value.hint == install.install_command(module)
    code = f"import sys; sys.modules[{module!r}] = None; from score_edge.cli import main; main()"
    command = [sys.executable, "-c", code, "ask", "reference", "synthetic://?steps=4", "what moved?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{module} is not installed" in done.stderr and 'pip install "score-edge[' in done.stderr


def calls_and_imports() -> list[tuple[Path, ast.AST]]:
    folders = ("score_edge", "runtime", "export", "calibration")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def test_nothing_imports_them_but_through_require() -> None:
    """`from onnxruntime.quantization import …` is fine behind a `require("onnxruntime")`; doctor looks for itself."""
    plain = {
        str(path.relative_to(ROOT))
        for path, node in calls_and_imports()
        if isinstance(node, ast.Import) and {alias.name for alias in node.names} & {"cv2", "onnxruntime"}
    }
    assert {name for name in plain if not name.startswith("score_edge/doctor/")} == set()


def test_every_extra_that_a_hint_names_exists() -> None:
    project = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    extras = project.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        node.args[1].value
        for _, node in calls_and_imports()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require"
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    }
    assert named | {"pc", "gpu", "jetson"} <= extras.keys()
    assert len(named) >= 4
