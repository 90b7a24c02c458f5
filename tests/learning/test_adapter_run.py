"""`score-edge train adapter` as a user runs it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")
pytest.importorskip("matplotlib")

from score_edge.bundle.atomic import only_writer  # noqa: E402
from score_edge.bundle.folder import Bundle, write_bundle  # noqa: E402
from score_edge.cli import main  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning import adapter_training, training_loop  # noqa: E402
from score_edge.learning.adapter_run import learn_adapter  # noqa: E402
from score_edge.learning.curriculum import Scene  # noqa: E402
from score_edge.learning.data import Data  # noqa: E402
from score_edge.learning.decoder_weights import without_adapter  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.recipe import AdapterRecipe  # noqa: E402
from score_edge.learning.training_loop import hold_out  # noqa: E402
from score_edge.runtime.language.llama_cpp import LlamaCpp  # noqa: E402

TINY = ("--clips", 2, "--scenes", 4, "--clip-steps", 4, "--threads", 1)
SMALL = Data(clip_steps=4, scenes=4)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def first_word(bundle: Bundle) -> np.ndarray:
    with LlamaCpp(bundle.gguf_path, context=64, threads=1, adapter=bundle.adapter_path) as model:
        sequence = model.sequence()
        sequence.append("what moved?")
        found: np.ndarray = sequence.logits()
    return found


def test_from_the_command_to_a_bundle_that_answers_more_like_with_all_tokens(tmp_path):
    """The newest steps alone say little of a clip: what the model then says moves towards what it says of all."""
    few = ("--selector", "newest", "--steps", 40, "--clips", 4, "--scenes", 60, "--clip-steps", 4, "--threads", 1)
    options = (*few, "--learning-rate", 2e-3, "--out", tmp_path / "run")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "train", "adapter", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "bundle written" in done.stderr, done.stderr
    made = rows(tmp_path / "run")
    assert [row["step"] for row in made] == list(range(41))
    assert made[0]["held_whole"] == 0 and made[-1]["held"] < 0.95 * made[0]["held"]
    old, bundle = Bundle.open("reference"), Bundle.open(tmp_path / "run/bundle")
    assert bundle.adapter_path.read_bytes() == (tmp_path / "run/adapter.gguf").read_bytes()
    assert bundle.manifest.provenance.source.endswith("; score-edge train adapter")
    assert bundle.manifest.language.gguf == old.manifest.language.gguf
    assert np.abs(first_word(bundle) - first_word(old)).max() > 0.1
    assert (tmp_path / "run/metrics.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run/recipe.json").read_text())["selector"] == "newest"
    with FrozenModel(bundle, steps=4, threads=1) as after, FrozenModel(old, steps=4, threads=1) as before:
        assert after.fingerprint != before.fingerprint
    little = AdapterRecipe(steps=1, clips=1, learning_rate=1e-6)
    again = learn_adapter(bundle.folder, tmp_path / "again", little, SMALL, threads=1)
    assert np.abs(first_word(again) - first_word(old)).max() < 0.01  # it starts from the weights, not from the old one
    assert again.manifest.provenance.source == bundle.manifest.provenance.source


def test_a_killed_run_goes_on_to_the_same_adapter_and_metrics(tmp_path, monkeypatch):
    recipe = AdapterRecipe(steps=6, clips=1, checkpoint_every=2, whole=0.3)
    undisturbed = learn_adapter("reference", tmp_path / "one", recipe, SMALL, threads=1)
    add_row = training_loop.add_row

    def die(metrics: Path, row: dict[str, float]) -> None:
        add_row(metrics, row)
        if row["step"] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_loop, "add_row", die)
        learn_adapter("reference", tmp_path / "two", recipe, SMALL, threads=1)
    assert not (tmp_path / "two/bundle").exists()
    with pytest.raises(ScoreEdgeError, match="already holds a run"):
        learn_adapter("reference", tmp_path / "two", recipe, SMALL, threads=1)
    for change, said in (({"rank": 4}, "another recipe"), ({"learning_rate": 1e-4}, "another recipe")):
        with pytest.raises(ScoreEdgeError, match=said):
            learn_adapter(
                "reference", tmp_path / "two", dataclasses.replace(recipe, **change), SMALL, threads=1, resume=True
            )
    with pytest.raises(ScoreEdgeError, match="other clips"):
        learn_adapter("reference", tmp_path / "two", recipe, Data(clip_steps=4, scenes=3), threads=1, resume=True)
    resumed = learn_adapter("reference", tmp_path / "two", recipe, SMALL, threads=1, resume=True)
    assert resumed.adapter_path.read_bytes() == undisturbed.adapter_path.read_bytes()
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--bundle", "nowhere"), 1, "nowhere is not a bundle"),
        (("--checkpoint", "nowhere"), 1, "there is no folder nowhere"),
        (("--questions", "q.jsonl"), 1, "questions without videos"),
        (("--videos", "nowhere", "--scenes", "4"), 2, "--scenes does nothing"),
        (("--selector", "all"), 1, "nothing to learn"),
        (("--selector", "scoer", "--scenes", "2"), 1, "did you mean score"),
        (("--selector", "score-query", "--scenes", "2"), 1, "question"),
        (("--scenes", "1"), 1, "there is one clip only"),
        (("--device", "tpu"), 1, "there is no device 'tpu'"),
        (("--cache-mb", "1", "--clip-steps", "1000"), 1, "the cache may hold 1.0"),
        (("--resume",), 1, "there is no checkpoint"),
        (("--rank", "0"), 2, "rank"),
        (("--learning-rate", "nan"), 2, "--learning-rate"),
    ],
)
def test_bad_input_is_a_message(tmp_path, arguments, code, text, monkeypatch, capsys):
    command = ["score-edge", "train", "adapter", "--out", tmp_path / "run", *TINY, *arguments]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code and text in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_at_hand_are_asked_for(tmp_path):
    old = Bundle.open("reference")
    outside = tmp_path / "model.gguf"
    outside.write_bytes(old.gguf_path.read_bytes())
    language = dataclasses.replace(old.manifest.language, gguf=None, path=str(outside))
    files = {name: path for name, path in old.paths.items() if name != "llm.gguf"}
    write_bundle(tmp_path / "bundle", dataclasses.replace(old.manifest, language=language), files)
    with pytest.raises(ScoreEdgeError, match="no gradient") as caught:
        learn_adapter(tmp_path / "bundle", tmp_path / "run", AdapterRecipe(), SMALL)
    assert "--checkpoint" in caught.value.hint and not (tmp_path / "run").exists()


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(ScoreEdgeError, match="another command writes into"):
        learn_adapter("reference", tmp_path, AdapterRecipe(), SMALL)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        adapter_training.Lesson, "loss", lambda lesson, scene, share: lesson.adapter.a[0].sum() * torch.nan
    )
    with pytest.raises(ScoreEdgeError, match="the loss is not a number"):
        learn_adapter("reference", tmp_path / "run", AdapterRecipe(steps=2, clips=1), SMALL, threads=1)
    assert not (tmp_path / "run/adapter.gguf").exists()


@pytest.mark.parametrize(("count", "held"), [(2, 1), (19, 1), (40, 4), (900, 16)])
def test_clips_that_are_held_out_come_from_all_over(count, held):
    scenes = [Scene(f"{i}", lambda: ([], [])) for i in range(count)]
    out, learned = hold_out(scenes)
    assert len(out) == held and len(learned) == count - held
    assert {scene.name for scene in (*out, *learned)} == {scene.name for scene in scenes}


def test_a_bundle_without_its_adapter_is_the_bundle():
    bundle = Bundle.open("reference")
    assert without_adapter(bundle) == bundle
