import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from safetensors.torch import load_file  # noqa: E402

from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning.policy_start import new_policy, policy_inputs  # noqa: E402
from score_edge.learning.policy_training import Scenes, _set_rate, train_policy  # noqa: E402
from score_edge.learning.recipe import PolicyRecipe  # noqa: E402
from score_edge.selection.residual import previous_tokens  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from planted import PlantedFeatures, PlantedModel, scenes  # noqa: E402

FEW = PolicyRecipe(steps=6, clips=4, rollouts=4, warm_steps=5, hidden=8, checkpoint_every=2, still_share=0.5)
DATA = Scenes(scenes(0), scenes(1000))


def run(folder: Path, recipe: PolicyRecipe = FEW, **options):
    return train_policy(folder, PlantedModel(), PlantedFeatures(), DATA, recipe, **options)


def weights(policy) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).numpy()


def recall(policy) -> float:
    """Share of the important tokens among as many of the highest ranked, on clips never trained on."""
    hits, all_of_them = 0, 0
    for scene in scenes(5000, 20):
        clip = PlantedFeatures().read(scene)
        important = (clip.tokens[..., 0] > 1).flatten()
        with torch.no_grad():
            best = policy.logits(*policy_inputs(clip)).topk(int(important.sum())).indices
        hits, all_of_them = hits + int(important[best].sum()), all_of_them + int(important.sum())
    return hits / all_of_them


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights_and_metrics(tmp_path):
    whole = run(tmp_path / "whole")

    def kill(row):
        if row["step"] == 4:  # one step behind the last checkpoint
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "killed", on_log=kill)
    resumed = run(tmp_path / "killed", resume=True)
    assert np.array_equal(weights(whole), weights(resumed))
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "killed/metrics.jsonl").read_text()
    first, second = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_policy_finds_what_the_model_needs(tmp_path):
    recipe = PolicyRecipe(steps=80, clips=8, rollouts=8, warm_steps=0, hidden=16, learning_rate=2e-2, still_share=0)
    before = recall(new_policy([PlantedFeatures().read(scene) for scene in DATA.moving[:16]], recipe))
    after = recall(run(tmp_path, recipe))
    assert before < 0.4 and after > 0.6


def test_metrics_say_what_happened(tmp_path):
    run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(6))
    assert [row["stage"] for row in rows] == [1, 1, 1, 2, 2, 2]
    for row in rows:
        assert row["keep"] == pytest.approx(1 - row["sparsity"])
        assert -1 <= row["quality"] <= 1 and 0 <= row["held"] <= 1


def test_without_the_residual_the_change_does_not_matter():
    clip = PlantedFeatures().read(DATA.moving[0])
    tokens, previous = policy_inputs(clip)
    seeing, blind = (
        new_policy([clip], dataclasses.replace(FEW, residual=residual)).logits for residual in (True, False)
    )
    assert torch.equal(blind(tokens, previous), blind(tokens, previous.flip(0)))
    assert not torch.equal(seeing(tokens, previous), seeing(tokens, previous.flip(0)))


def test_the_residual_is_the_runtimes():
    clip = PlantedFeatures().read(DATA.moving[0])
    tokens, previous = policy_inputs(clip)
    expected = previous_tokens(clip.tokens.float().numpy())
    assert np.array_equal(previous.numpy(), expected.reshape(previous.shape))
    assert torch.equal(tokens.view(clip.tokens.shape), clip.tokens.float())


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    run(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(ScoreEdgeError, match="step 0: the loss is not a number") as caught:
        train_policy(tmp_path, PlantedModel(broken=True), PlantedFeatures(), DATA, FEW)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert "start anew with a lower --learning-rate" in caught.value.hint
    with pytest.raises(ScoreEdgeError, match="another recipe"):  # so that is the only way
        run(tmp_path, dataclasses.replace(FEW, learning_rate=1e-4), resume=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lowest": 0.0}, "keep rates"),
        ({"rollouts": 1}, "at least two"),
        ({"seed": -1}, "seed -1 is outside"),
        ({"seed": 2**64}, "is outside"),
        ({"advantage": "spilt"}, "no advantage 'spilt'"),
    ],
)
def test_an_impossible_recipe_is_refused(change, text):
    with pytest.raises(ScoreEdgeError, match=text):
        PolicyRecipe(**change)


def test_resuming_needs_a_checkpoint_of_the_same_recipe(tmp_path):
    with pytest.raises(ScoreEdgeError, match="there is no checkpoint"):
        run(tmp_path, resume=True)
    run(tmp_path)
    with pytest.raises(ScoreEdgeError, match=r"another recipe \(seed 0\)"):
        run(tmp_path, dataclasses.replace(FEW, seed=1), resume=True)
    for other in (Scenes(scenes(0), scenes(2000)), Scenes(scenes(0), scenes(1000), "another model")):
        with pytest.raises(ScoreEdgeError, match="from other clips, or for another bundle"):
            train_policy(tmp_path, PlantedModel(), PlantedFeatures(), other, FEW, resume=True)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut short")
    with pytest.raises(ScoreEdgeError, match="is not a checkpoint"):
        run(tmp_path, resume=True)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from planted import PlantedFeatures, PlantedModel, scenes\n"
        "from score_edge.learning.policy_training import *\n"
        f"recipe = PolicyRecipe(**{dataclasses.asdict(FEW)!r})\n"
        "data = Scenes(scenes(0), scenes(1000))\n"
        f"train_policy(Path({str(tmp_path / 'two')!r}), PlantedModel(), PlantedFeatures(), data, recipe)\n"
    )
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", str(script)]
    subprocess.run(launch, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    run(tmp_path / "one")
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (50, 0.55), (100, 0.1)])
def test_the_learning_rate_falls_to_a_tenth_along_a_cosine(step: int, share: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    _set_rate(optimizer, PolicyRecipe(steps=100, learning_rate=0.5), step)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * share)


def test_before_any_reward_what_changed_more_ranks_higher() -> None:
    clips = [PlantedFeatures().read(scene) for scene in scenes(0, 12)]
    policy = new_policy(clips, PolicyRecipe(hidden=16, warm_steps=200))
    tokens, previous = policy_inputs(PlantedFeatures().read(*scenes(6000, 1)))
    with torch.no_grad():
        logits = policy.logits(tokens, previous)
    change = (tokens - previous).norm(dim=1).log()
    assert torch.corrcoef(torch.stack([logits, change]))[0, 1] > 0.6
    assert float(logits.std()) == pytest.approx(PolicyRecipe().warm_spread, rel=0.4)
