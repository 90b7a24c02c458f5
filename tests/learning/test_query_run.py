"""`score-edge train query` as a user runs it."""

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

from score_edge.bundle.folder import Bundle, write_bundle  # noqa: E402
from score_edge.cli import main  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning import training_loop  # noqa: E402
from score_edge.learning.data import Data  # noqa: E402
from score_edge.learning.query_run import learn_query  # noqa: E402
from score_edge.learning.recipe import QueryRecipe  # noqa: E402
from score_edge.runtime.pipeline import Pipeline  # noqa: E402

TINY = ("--clips", 2, "--scenes", 4, "--clip-steps", 4, "--threads", 1)
SMALL = Data(clip_steps=4, scenes=4)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_from_the_command_to_a_bundle_that_chooses_for_a_question(tmp_path):
    old = Bundle.open("reference")
    files = {name: path for name, path in old.paths.items() if name != "query.onnx"}
    without = dataclasses.replace(old.manifest.selector, query=None)
    write_bundle(tmp_path / "old", dataclasses.replace(old.manifest, selector=without), files)
    few = ("--steps", 200, "--clips", 2, "--scenes", 60, "--clip-steps", 4, "--threads", 1)
    options = ("--bundle", tmp_path / "old", *few, "--out", tmp_path / "run")
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "train", "query", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "bundle written" in done.stderr, done.stderr
    assert "2.5% of the tokens, score-query: 0." in done.stderr and "2.5% of the tokens, score: 0." in done.stderr
    made = rows(tmp_path / "run")
    assert [row["step"] for row in made] == list(range(201))
    assert made[-1]["held_share"] > 2 * made[0]["held_share"] and made[-1]["held"] < made[0]["held"]
    bundle = Bundle.open(tmp_path / "run/bundle")
    assert bundle.query_path.read_bytes() == (tmp_path / "run/query.onnx").read_bytes()
    assert bundle.manifest.selector.name == old.manifest.selector.name
    assert all(bundle.paths[name].read_bytes() == path.read_bytes() for name, path in files.items())
    assert bundle.manifest.provenance.source.endswith("; score-edge train query")
    assert (tmp_path / "run/metrics.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run/recipe.json").read_text())["steps"] == 200


def test_a_killed_run_goes_on_to_the_same_policy_and_metrics(tmp_path, monkeypatch):
    recipe = QueryRecipe(steps=6, clips=1, checkpoint_every=2)
    undisturbed, _ = learn_query("reference", tmp_path / "one", recipe, SMALL, threads=1)
    add_row = training_loop.add_row

    def die(metrics: Path, row: dict[str, float]) -> None:
        add_row(metrics, row)
        if row["step"] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_loop, "add_row", die)
        learn_query("reference", tmp_path / "two", recipe, SMALL, threads=1)
    assert not (tmp_path / "two/bundle").exists()
    with pytest.raises(ScoreEdgeError, match="already holds a run"):
        learn_query("reference", tmp_path / "two", recipe, SMALL, threads=1)
    with pytest.raises(ScoreEdgeError, match="another recipe"):
        other = dataclasses.replace(recipe, hidden=8)
        learn_query("reference", tmp_path / "two", other, SMALL, threads=1, resume=True)
    resumed, _ = learn_query("reference", tmp_path / "two", recipe, SMALL, threads=1, resume=True)
    assert resumed.query_path.read_bytes() == undisturbed.query_path.read_bytes()
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


def test_a_damaged_file_is_named(tmp_path):
    recipe = QueryRecipe(steps=2, clips=1)
    learn_query("reference", tmp_path / "run", recipe, SMALL, threads=1)
    for path in (tmp_path / "run/features").glob("*.saliency.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ScoreEdgeError, match=r"saliency\.safetensors is damaged") as caught:
        learn_query("reference", tmp_path / "run", recipe, SMALL, threads=1, resume=True)
    assert "made again" in caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--bundle", "nowhere"), 1, "nowhere is not a bundle"),
        (("--checkpoint", "nowhere"), 1, "there is no folder nowhere"),
        (("--questions", "q.jsonl"), 1, "questions without videos"),
        (("--videos", "nowhere"), 1, "learns from questions, and there are none"),
        (("--videos", "nowhere", "--world", "rain"), 2, "--world does nothing"),
        (("--world", "snow"), 1, "snow"),
        (("--scenes", "1"), 1, "there is one clip only"),
        (("--device", "tpu"), 1, "there is no device 'tpu'"),
        (("--resume",), 1, "there is no checkpoint"),
        (("--hidden", "0"), 2, "hidden"),
        (("--learning-rate", "nan"), 2, "--learning-rate"),
    ],
)
def test_bad_input_is_a_message(tmp_path, arguments, code, text, monkeypatch, capsys):
    scenes = () if "--videos" in arguments else TINY
    command = ["score-edge", "train", "query", "--out", tmp_path / "run", *scenes, *arguments]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code and text in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    def broken(policy, salient):
        nothing = policy.last.bias.sum() * torch.nan
        return nothing[None], torch.zeros(1)

    monkeypatch.setattr("score_edge.learning.query_training.query_loss", broken)
    with pytest.raises(ScoreEdgeError, match="the loss is not a number"):
        learn_query("reference", tmp_path / "run", QueryRecipe(steps=2, clips=1), SMALL, threads=1)
    assert not (tmp_path / "run/query.onnx").exists()


def test_what_was_learned_is_what_the_runtime_computes(tmp_path):
    """Odds of the network and of the selector in the pipeline, for the same clip and question."""
    from score_edge.export.query_graph import QueryNetwork
    from score_edge.learning.prepared_clip import PreparedClip
    from score_edge.learning.query_training import query_inputs

    bundle, _ = learn_query("reference", tmp_path / "run", QueryRecipe(steps=3, clips=1), SMALL, threads=1)
    from safetensors.torch import load_file

    held = load_file(tmp_path / "run/checkpoint.safetensors")
    state = {name.removeprefix("policy."): each for name, each in held.items() if name.startswith("policy.")}
    policy = QueryNetwork(bundle.manifest.vision.dim)
    policy.load_state_dict(state)
    random = torch.Generator().manual_seed(0)
    clip = PreparedClip(torch.randn(5, 36, bundle.manifest.vision.dim, generator=random).half(), [], [], torch.zeros(0))
    with Pipeline(bundle, threads=1) as pipeline, torch.no_grad():
        words = torch.from_numpy(pipeline.words("what moved?"))
        expected = policy.logits(*query_inputs(clip), words).view(5, 36).numpy()
        selector = pipeline.selector("score-query:dither=0", question="what moved?")
        found = selector.score(clip.tokens.float().numpy(), 10)
    ranks = [np.argsort(np.argsort(odds.ravel())) for odds in (found, expected)]
    assert np.corrcoef(*ranks)[0, 1] > 0.999
