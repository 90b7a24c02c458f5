"""What `train` hands over and shows; the training itself takes hours."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.cli import main  # noqa: E402
from score_edge.cli.training import train_reference  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning import long_training, reference_bundle, reference_training  # noqa: E402


@pytest.fixture
def seen(tmp_path, monkeypatch):
    seen = {"short": [], "long": []}

    def short(folder, recipe, *, on_log):
        seen["short"].append(recipe)
        on_log({"step": 1, "stage": 1, "loss": 0.5})
        save_file({"from nothing": torch.zeros(1)}, folder / "model.safetensors")
        return folder / "model.safetensors"

    def long(folder, start, device, threads, on_log):
        seen["long"].append((folder, start, device, threads))
        on_log({"part": "answer", "share": 0.5, "whole": 0.9})

    monkeypatch.setattr(reference_training, "train_reference", short)
    monkeypatch.setattr(long_training, "train_long", long)
    monkeypatch.setattr(
        reference_bundle, "write_reference_bundle", lambda *given, **options: SimpleNamespace(folder=tmp_path)
    )
    return seen


def test_train_reference_begins_with_its_own_recipe_and_goes_on_with_long_clips(tmp_path, seen) -> None:
    train_reference(tmp_path, threads=1, start=None, device="auto")
    (recipe,) = seen["short"]
    assert isinstance(recipe, reference_training.ReferenceRecipe) and recipe.threads == 1
    ((folder, start, device, threads),) = seen["long"]
    assert (folder, list(start), device, threads) == (
        tmp_path / "long",
        ["from nothing"],
        long_training.pick_device("auto"),
        1,
    )


def test_a_long_stage_that_was_cut_off_is_not_begun_anew(tmp_path, seen) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "state.safetensors").touch()
    save_file({"as it was": torch.zeros(1)}, tmp_path / "model.safetensors")
    train_reference(tmp_path, threads=1, start=None, device="cpu")
    assert seen["short"] == [] and list(seen["long"][0][1]) == ["as it was"]


def test_a_run_that_was_begun_from_a_bundle_asks_for_it_again(tmp_path, seen) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "state.safetensors").touch()
    with pytest.raises(ScoreEdgeError, match="went on from a bundle"):
        train_reference(tmp_path, threads=1, start=None, device="cpu")
    assert seen["short"] == seen["long"] == []


def test_a_run_that_is_over_is_not_trained_again(tmp_path, seen, capsys) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "model.safetensors").touch()
    train_reference(tmp_path, threads=1, start=None, device="cpu")
    assert seen["short"] == seen["long"] == [] and "trained already" in capsys.readouterr().err
    with pytest.raises(ScoreEdgeError, match="already holds a run"):
        train_reference(tmp_path, threads=1, start="reference", device="cpu")


def test_it_goes_on_from_a_bundle(tmp_path, seen) -> None:
    pytest.importorskip("gguf")
    train_reference(tmp_path, threads=1, start="reference", device="cpu")
    assert seen["short"] == [] and "lm_head.weight" in seen["long"][0][1]


def test_an_unknown_device_is_refused(tmp_path, seen) -> None:
    with pytest.raises(ScoreEdgeError, match="no device 'gpu'"):
        train_reference(tmp_path, threads=1, start=None, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("options", "message"), [({"device": "cuda"}, "no CUDA device"), ({"start": "nowhere"}, "is not a bundle")]
)
def test_nothing_is_trained_or_made_for_an_option_that_is_refused(options, message, tmp_path, seen) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        train_reference(tmp_path / "a" / "run", threads=1, **{"start": None, "device": "cpu", **options})
    assert seen["short"] == seen["long"] == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "row", "made"),
    [
        ("adapter", {"few": 0.1}, lambda bundle: bundle),
        ("query", {"loss": 2.0, "share": 0.4}, lambda bundle: (bundle, [])),
    ],
)
def test_a_run_that_goes_on_begins_between_two_looks_at_what_is_held_out(
    tmp_path, monkeypatch, capsys, command, row, made
) -> None:
    def learn(bundle, folder, recipe, data, *, on_log, **options):
        on_log({"step": 7.0, **row})
        return made(Bundle.open(bundle))

    monkeypatch.setattr(f"score_edge.learning.{command}_run.learn_{command}", learn)
    monkeypatch.setattr("sys.argv", ["score-edge", "train", command, "--out", str(tmp_path / "run"), "--resume"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "bundle written" in capsys.readouterr().err
