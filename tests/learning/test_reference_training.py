import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from score_edge.cli.training import train_reference as command  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning import reference_training  # noqa: E402
from score_edge.learning.reference_model import build_model  # noqa: E402
from score_edge.learning.reference_training import ReferenceRecipe, train_reference  # noqa: E402


def test_a_run_that_was_killed_tells_every_step_once(tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def stage(number, steps):
        def learn(*arguments):
            for step in range(steps):
                arguments[number + 1]({"stage": number, "step": step, "loss": 1.0})
            if len(killed) < number:
                killed.append(number)
                with (tmp_path / "metrics.jsonl").open("a") as file:
                    file.write('{"stage": 1, "st')
                raise KilledError

        return learn

    killed: list[int] = []
    monkeypatch.setattr(reference_training, "learn_to_see", stage(1, 3))
    monkeypatch.setattr(reference_training, "learn_to_answer", stage(2, 2))
    for _ in range(2):
        with pytest.raises(KilledError):
            train_reference(tmp_path, ReferenceRecipe())
    train_reference(tmp_path, ReferenceRecipe())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert killed == [1, 2]


@pytest.mark.slow
def test_both_stages_run_and_leave_weights_metrics_and_a_picture(tmp_path):
    recipe = ReferenceRecipe(
        see_steps=3, see_clips=2, answer_steps=50, answer_clips=2, fresh_clips=1, questions=2, threads=1
    )
    before = build_model().state_dict()
    weights = load_file(train_reference(tmp_path, recipe))
    assert weights.keys() == before.keys()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in rows} == {1, 2}
    assert (tmp_path / "metrics.png").stat().st_size > 1000


@pytest.mark.parametrize("content", ["damaged", "of another model"])
@pytest.mark.parametrize("file", ["encoder", "long/model", "model", "long/state"])
def test_damaged_files_of_a_run_are_refused(file, content, tmp_path) -> None:
    (tmp_path / "long").mkdir()
    if file in ("model", "long/state"):
        (tmp_path / "long" / "state.safetensors").touch()
        weights = {name: tensor.contiguous() for name, tensor in build_model().state_dict().items()}
        save_file(weights, tmp_path / "model.safetensors")
    path = tmp_path / f"{file}.safetensors"
    path.write_bytes(b"cut") if content == "damaged" else save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ScoreEdgeError, match=r"cannot be used: damaged, or of another model \(\S"):
        command(tmp_path, threads=1, start=None, device="cpu")
