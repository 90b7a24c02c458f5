import re
import sys
from pathlib import Path

import pytest

from score_edge.errors import ScoreEdgeError, require


def test_message_and_hint() -> None:
    error = ScoreEdgeError("there is no camera 3", "`score-edge doctor` lists them")
    assert (error.message, error.hint) == ("there is no camera 3", "`score-edge doctor` lists them")
    assert str(error) == "there is no camera 3\n  hint: `score-edge doctor` lists them"
    assert str(ScoreEdgeError("no hint")) == "no hint"


def test_require_imports() -> None:
    assert require("json", "dev") is sys.modules["json"]
    assert require("os.path", "dev") is sys.modules["os.path"]


@pytest.mark.parametrize("module", ["no_such_module_9", "no_such_module_9.part"])
def test_require_names_the_pip_command(module: str) -> None:
    with pytest.raises(ScoreEdgeError, match=f"{module} is not installed") as caught:
        require(module, "export")
    assert caught.value.hint == 'pip install "score-edge[export]"'


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("import no_such_module_9.part", "no_such_module_9, which it needs, is not installed", "pip install"),
        ("raise ImportError('libGL.so.1: cannot open\\nmore')", "ImportError: libGL.so.1: cannot open$", "doctor"),
        ("raise RuntimeError('Failed to load libllama.so')", "RuntimeError: Failed to load libllama.so", "doctor"),
    ],
)
def test_require_tells_what_is_wrong_with_a_broken_installation(
    source: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_but_broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ScoreEdgeError) as caught:
        require("installed_but_broken", "export")
    assert re.search(f"^installed_but_broken .*cannot be imported: {message}", caught.value.message)
    assert hint in caught.value.hint
