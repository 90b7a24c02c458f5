"""`train reference` hands over its recipe; the training itself takes hours."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_train_reference_begins_with_its_own_recipe(tmp_path, monkeypatch) -> None:
    from score_edge.cli.training import train_reference
    from score_edge.learning import reference_bundle, reference_training

    seen = []

    def train(folder, recipe, *, on_log):
        seen.append(recipe)
        on_log({"step": 1, "stage": 1, "loss": 0.5})

    monkeypatch.setattr(reference_training, "train_reference", train)
    monkeypatch.setattr(
        reference_bundle, "write_reference_bundle", lambda *given, **options: SimpleNamespace(folder=tmp_path)
    )
    train_reference(tmp_path, threads=1)
    assert isinstance(seen[0], reference_training.ReferenceRecipe) and seen[0].threads == 1
