"""`score-edge train policy` as a user runs it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from score_edge.bundle.atomic import only_writer  # noqa: E402
from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.cli import main  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.export.policy_graph import PolicyNetwork, export_policy  # noqa: E402
from score_edge.learning import policy_run  # noqa: E402
from score_edge.learning.data import Data  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.policy_run import learn_policy, with_policy  # noqa: E402
from score_edge.learning.recipe import PolicyRecipe  # noqa: E402

TINY = ("--clips", 2, "--rollouts", 2, "--scenes", 2, "--clip-steps", 3, "--threads", 1)


def train_policy(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from score_edge.cli import main; main()", "train", "policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_from_the_command_to_a_bundle_that_selects_with_score(tmp_path):
    done = train_policy("--bundle", "reference", "--steps", 3, "--out", tmp_path / "run", *TINY)
    assert done.returncode == 0 and "bundle written" in done.stderr, done.stderr
    bundle = Bundle.open(tmp_path / "run/bundle")
    assert bundle.manifest.selector.name == "score"
    assert bundle.policy_path is not None
    assert bundle.policy_path.read_bytes() == (tmp_path / "run/policy.onnx").read_bytes()
    assert (tmp_path / "run/metrics.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 3
    assert json.loads((tmp_path / "run/recipe.json").read_text())["rollouts"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--images", "nowhere"), 1, "there is no folder nowhere"),
        (("--questions", "q.jsonl"), 1, "questions without videos"),
        (("--advantage", "spilt"), 1, "did you mean split?"),
        (("--cache-mb", "1", "--clip-steps", "1000"), 1, "the cache may hold 1.0"),
        (("--backend", "tensorrt-llm"), 1, "needs the folder of an engine"),
        (("--resume",), 1, "there is no checkpoint"),
        (("--rollouts", "1"), 2, "rollouts"),
        (("--bundle", "nowhere"), 1, "nowhere is not a bundle"),
    ],
)
def test_bad_input_is_a_message(tmp_path, arguments, code, text, monkeypatch, capsys):
    command = ["score-edge", "train", "policy", "--out", tmp_path / "run", *TINY, *arguments]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code and text in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists()


def test_clips_that_the_processes_cannot_share_are_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    import accelerate

    state = SimpleNamespace(num_processes=3, is_main_process=True)
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu: state)
    with pytest.raises(ScoreEdgeError, match="8 clips per step cannot be shared evenly by 3 processes"):
        learn_policy("reference", tmp_path / "run", PolicyRecipe(), Data())
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(ScoreEdgeError, match="already holds a run"):
        learn_policy("reference", tmp_path, PolicyRecipe(), Data())


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with only_writer(tmp_path), pytest.raises(ScoreEdgeError, match="another command writes into"):
        learn_policy("reference", tmp_path, PolicyRecipe(), Data())


def test_the_model_is_freed_whatever_happens(tmp_path, monkeypatch):
    closed = []
    close = FrozenModel.close
    monkeypatch.setattr(FrozenModel, "close", lambda model: (closed.append(model), close(model)))
    with pytest.raises(ScoreEdgeError, match="no folder"):
        learn_policy("reference", tmp_path, PolicyRecipe(), Data(images=tmp_path / "nowhere"))
    assert len(closed) == 1


@pytest.mark.parametrize("per_step", [1, 2, 4])
def test_a_clip_of_the_world_is_as_long_as_it_is_told_for_every_family(per_step):
    bundle = Bundle.open("reference")
    vision = dataclasses.replace(bundle.manifest.vision, frames_per_step=per_step)
    manifest = dataclasses.replace(bundle.manifest, vision=vision)
    model = SimpleNamespace(bundle=SimpleNamespace(manifest=manifest), fingerprint="a model")
    features = SimpleNamespace(fit=lambda scenes, steps: scenes)
    scenes = policy_run._scenes(model, features, PolicyRecipe(), Data(clip_steps=6, scenes=2))
    for scene in (*scenes.stills, *scenes.moving):
        frames, _ = scene.load()
        assert len(frames) == 6 * per_step


def test_a_policy_of_another_width_does_not_get_into_a_bundle(tmp_path):
    export_policy(PolicyNetwork(7), tmp_path / "policy.onnx")
    with pytest.raises(ScoreEdgeError, match=r"input tokens has the shape \(.*, 7\), expected \(M, 192\)"):
        with_policy(Bundle.open("reference"), tmp_path / "policy.onnx", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_policy_takes_the_place_of_the_bundles(tmp_path):
    torch.manual_seed(3)
    export_policy(PolicyNetwork(192), tmp_path / "new.onnx")
    old = Bundle.open("reference")
    bundle = with_policy(old, tmp_path / "new.onnx", tmp_path / "bundle")
    assert bundle.manifest.selector.name == "score"
    assert bundle.manifest.selector.retention == old.manifest.selector.retention
    commands = bundle.manifest.provenance.source.split("; ")
    assert commands[-1] == "score-edge train policy" and len({*commands}) == len(commands)
    assert bundle.paths.keys() == old.paths.keys()
    assert bundle.manifest.selector.query == old.manifest.selector.query
    assert Path(bundle.policy_path).read_bytes() == (tmp_path / "new.onnx").read_bytes()


@pytest.mark.slow
def test_fifty_steps_improve_the_reward_on_clips_never_trained_on(tmp_path):
    """From a random start, without the curriculum: the expected quality of masks drawn at 10 % must rise."""
    from score_edge.learning.curriculum import world_scenes
    from score_edge.learning.features import Features
    from score_edge.learning.frozen_model import FrozenModel
    from score_edge.learning.policy_start import new_policy, policy_inputs
    from score_edge.learning.policy_training import Scenes, train_policy
    from score_edge.learning.recipe import PolicyRecipe
    from score_edge.learning.rewards import quality
    from score_edge.learning.rollouts import draw_masks, generator, rate_bias

    model = FrozenModel(Bundle.open("reference"), steps=8, threads=1)
    features = Features(tmp_path / "features", model, 64 << 20)
    moving, held_out = world_scenes(30, 8), world_scenes(10, 8, start=5000)
    features.prepare([*moving, *held_out])
    recipe = PolicyRecipe(steps=50, clips=4, warm_steps=0, still_share=0, learning_rate=4e-3, lowest=0.1, highest=0.2)

    def expected(policy) -> float:
        found = []
        for i, scene in enumerate(held_out):
            clip = features.read(scene)
            with torch.no_grad():
                logits = policy.logits(*policy_inputs(clip))
            masks = draw_masks(logits + rate_bias(logits, 0.1), 8, generator(99, i)).view(8, *clip.tokens.shape[:2])
            loss = torch.stack(model.losses([clip] * 8, list(masks)))
            found.append(quality(loss, clip.unpruned).mean())
        return float(torch.stack(found).mean())

    before = expected(new_policy([features.read(scene) for scene in moving[:16]], recipe))
    after = expected(train_policy(tmp_path / "run", model, features, Scenes([], moving), recipe))
    assert after > before + 0.02
