import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from score_edge.learning.reference_model import build_model  # noqa: E402
from score_edge.learning.reference_training import ReferenceRecipe, train_reference  # noqa: E402


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
