"""What was learned before is taken again only for the same footage, bundle and recipe."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")

from score_edge.bundle.folder import REFERENCE, Bundle, write_manifest
from score_edge.learning.recipe import PolicyRecipe
from score_edge.runtime.sources.open_source import open_source


@pytest.fixture
def tool() -> Any:
    path = Path(__file__).parents[2] / "tools" / "own_footage.py"
    spec = importlib.util.spec_from_file_location("own_footage", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_recipe_bundle_or_video_is_learned_from_anew(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learned: list[int] = []

    def learn(bundle: str, folder: Path, recipe: PolicyRecipe, data: Any) -> Bundle:
        """Learning takes seconds, and is tested where it is: here a bundle is there afterwards."""
        assert len(list(data.videos.iterdir())) == tool.PIECES
        learned.append(recipe.steps)
        shutil.copytree(bundle, folder / "bundle")
        return Bundle.open(folder / "bundle")

    def film(seed: int) -> None:
        with open_source(f"synthetic://?seed={seed}&steps=16") as source:
            tool.write(tmp_path / "clip.mp4", list(source), 4.0)

    def run(steps: int) -> list[int]:
        arguments = [str(tmp_path), "--out", str(tmp_path / "out"), "--bundle", str(folder), "--steps", str(steps)]
        monkeypatch.setattr("sys.argv", ["own_footage.py", *arguments])
        tool.main()
        return learned

    monkeypatch.setattr(tool, "learn_policy", learn)
    folder = tmp_path / "bundle"
    shutil.copytree(REFERENCE, folder)
    boxes = {"video": "clip.mp4", "width": 96, "height": 96, "frames": {"24": [{"box": [0, 0, 48, 48]}]}}
    (tmp_path / "clip.hand.json").write_text(json.dumps(boxes))
    film(1)
    assert run(1) == [1]
    assert run(1) == [1]
    assert run(2) == [1, 2]
    film(2)
    assert run(2) == [1, 2, 2]
    bundle = Bundle.open(folder)
    vision = dataclasses.replace(bundle.manifest.vision, fps=2.0)
    write_manifest(bundle, dataclasses.replace(bundle.manifest, vision=vision))
    assert run(2) == [1, 2, 2, 2]
    assert capsys.readouterr().out.count(" 1 labelled frames: shipped ") == 5
