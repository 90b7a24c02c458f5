import dataclasses
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.learning import long_training  # noqa: E402
from score_edge.learning.batches import hidden_states, predict  # noqa: E402
from score_edge.learning.long_checkpoint import PARTS, Checkpoint  # noqa: E402
from score_edge.learning.long_clips import batch_of, draw, encode, kept_by, patchify, receive  # noqa: E402
from score_edge.learning.long_decoder import decode  # noqa: E402
from score_edge.learning.long_evaluation import gathered, mark  # noqa: E402
from score_edge.learning.long_recipe import LongRecipe  # noqa: E402
from score_edge.learning.long_training import LongTraining, train_long  # noqa: E402
from score_edge.learning.rank_farm import RULES, RankFarm  # noqa: E402
from score_edge.learning.reference_bundle import read_reference_bundle  # noqa: E402
from score_edge.learning.reference_model import GRID, PREPROCESSING, build_model, step_encoder  # noqa: E402
from score_edge.learning.seeing import SIZES  # noqa: E402
from score_edge.learning.torch_judge import TorchJudge  # noqa: E402
from score_edge.learning.world_data import Prompts  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.reference.clip_farm import ClipFarm, Wanted, endless  # noqa: E402
from score_edge.selection.budget import clip_top_k  # noqa: E402
from score_edge.selection.registry import get_selector  # noqa: E402

STEPS = 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights():
    pytest.importorskip("gguf")
    return read_reference_bundle(Bundle.open("reference"))


@pytest.fixture(scope="module")
def model(weights):
    model = build_model().eval()
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="module")
def clips(model):
    wanted = [Wanted(world.TEST_SEED, i, STEPS, regime) for i, regime in enumerate(("plain", "leaves", "plain", "pan"))]
    prompts = Prompts()
    with ClipFarm(wanted, STEPS, 1) as farm:
        footage = [receive(rendered, prompts, CPU) for rendered in farm]
    return encode(step_encoder(model), footage)


def test_the_farm_delivers_the_worlds_clips_in_order():
    wanted = [Wanted(5, i, steps, regime) for i, (steps, regime) in enumerate([(3, "plain"), (8, "rain")] * 4)]
    with ClipFarm(wanted, 8, 2) as farm:
        for rendered, job in zip(farm, wanted, strict=True):
            clip = world.make_clip(job.seed, job.index, job.steps, job.regime)
            assert rendered.wanted == job
            assert np.array_equal(rendered.images.reshape(clip.images.shape), clip.images)
            for q, question in enumerate(clip.questions):
                assert np.array_equal(rendered.evidence >> q & 1, question.evidence)
                assert rendered.asked[q] == (question.text, question.answer, question.kind)


def test_endless_clips_are_the_same_again():
    ours, again = (endless(1, 7, {3: 0.5, 8: 0.5}, ("plain", "rain")) for _ in range(2))
    drawn = [next(ours) for _ in range(20)]
    assert drawn == [next(again) for _ in range(20)]
    assert {clip.steps for clip in drawn} == {3, 8} and {clip.regime for clip in drawn} == {"plain", "rain"}


def test_patches_are_those_of_the_runtime():
    steps = world.make_clip(3, 0, 4).images.reshape(4, 2, world.SIZE, world.SIZE, 3)
    expected = np.stack([PREPROCESSING.patchify(step) for step in steps])
    assert np.allclose(patchify(torch.from_numpy(steps)).numpy(), expected, atol=1e-6)


@torch.no_grad()
def test_the_decoder_is_that_of_transformers(model, clips):
    """One causal part and one mask for the text against one mask for everything."""
    batch = batch_of(clips, model.model.language_model.embed_tokens, Prompts())
    whole = torch.ones(batch.embeds.shape[1], batch.embeds.shape[1], dtype=torch.bool).tril()
    whole[batch.visual.stop :] = batch.mask[0, 0]
    expected = hidden_states(model, dataclasses.replace(batch, mask=whole[None, None]))
    for ours, theirs in zip(decode(model, batch), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3)


@torch.no_grad()
def test_answers_are_right_and_what_is_missing_in_a_row_is_not_seen(model, clips):
    prompts = Prompts()
    assert mark(model, prompts, clips).share() > 0.8
    favour, things = torch.ones(4), torch.zeros(4, dtype=torch.bool)
    kept = draw(clips, 60, favour, things, torch.Generator().manual_seed(0))
    masks = torch.zeros(4, len(clips[0].tokens), dtype=torch.bool).scatter(1, kept, True)
    masks[0, kept[0, 40:]] = False  # one row is shorter
    embedding = model.model.language_model.embed_tokens
    batch = batch_of(clips, embedding, prompts, *gathered(masks))
    first = predict(model, batch, decode(model, batch)[2])[0]
    alone = batch_of(clips[:1], embedding, prompts, *gathered(masks[:1]))
    expected = predict(model, alone, decode(model, alone)[2])[0]
    assert torch.allclose(first[: len(expected)], expected, atol=1e-3)


def test_evidence_comes_first_where_it_is_favoured(clips):
    count = max(int((clip.evidence > 0).sum()) for clip in clips)
    kept = draw(clips, count, torch.ones(4), torch.zeros(4, dtype=torch.bool), torch.Generator().manual_seed(0))
    for clip, row in zip(clips, kept, strict=True):
        assert set(torch.nonzero(clip.evidence)[:, 0].tolist()) <= set(row.tolist())


def test_a_rule_keeps_of_each_clip_what_it_keeps_at_run_time(clips):
    counts = [24, 40, STEPS * GRID**2]
    tokens = [clip.tokens.numpy().reshape(STEPS, GRID**2, -1) for clip in clips]
    with RankFarm(1) as farm:
        farm.rank(clips, tokens, [counts] * len(clips))
        ranked, ranks = zip(*farm.finished(wait=True), strict=True)
        assert ranked == tuple(clips) and not list(farm.finished())
    for i, selector in enumerate(map(get_selector, RULES)):
        for budget, count in enumerate(counts):
            rows = kept_by([torch.from_numpy(clip[i, budget]) for clip in ranks], count)
            for clip, row in zip(tokens, rows, strict=True):
                scores = selector.score(clip.astype(np.float32), count)
                assert np.array_equal(np.flatnonzero(clip_top_k(scores, count)), row.numpy())


def test_the_judge_rates_answers_as_the_model_gives_them(model, clips):
    judge = TorchJudge(model, Prompts(), clips)
    prepared = [judge.read(scene) for scene in judge.scenes]
    keeps = [torch.ones(STEPS, GRID**2, dtype=torch.bool), torch.zeros(STEPS, GRID**2, dtype=torch.bool)]
    keeps[1][:, 0] = True
    whole, little = judge.losses([prepared[1], prepared[1]], keeps)
    assert torch.allclose(whole, prepared[1].unpruned, atol=1e-4)
    assert little.median() > whole.median() + 0.5


def test_the_encoder_is_turned_to_where_the_decoder_knows_it_from_also_after_a_cut(tmp_path, weights, monkeypatch):
    recipe = LongRecipe(1e-6, 0, 0)
    cut = LongTraining(tmp_path, weights, recipe, "cpu", lambda row: None)
    with torch.no_grad():
        cut.encoder.visual.merger.mlp[2].weight.add_(1)  # what it has learned so far
    assert (tmp_path / "state.safetensors").exists()  # from the first moment
    heads = torch.nn.ModuleList(torch.nn.Linear(192, size) for size in SIZES)
    cut.checkpoint.begin("see", heads, torch.optim.AdamW(cut.encoder.parameters()), 1.0, 0.0).save()
    known = []
    monkeypatch.setattr(long_training, "turn_back", lambda encoder, old, footage: known.append((encoder, old)))
    LongTraining(tmp_path, weights, recipe, "cpu", lambda row: None).see_again(None)
    ((new, old),) = known
    start = weights["model.visual.merger.mlp.2.weight"]
    assert torch.equal(new.visual.merger.mlp[2].weight, start + 1)
    assert torch.equal(old.visual.merger.mlp[2].weight, start)


def test_a_row_behind_the_checkpoint_is_told_from_one_before_it(tmp_path, model):
    def told(**row):
        return checkpoint.covers(row)

    for reached, part in enumerate(PARTS):
        Checkpoint(tmp_path, model).save(part, 30.0, {})
        checkpoint = Checkpoint(tmp_path, model)
        assert told(part="start", clips=9, seconds=99.0)
        for i, other in enumerate(PARTS):
            assert told(part=other, seconds=29.5) == (i <= reached)
            assert told(part=other, seconds=30.5) == (i < reached)


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path, weights, monkeypatch):
    monkeypatch.setattr(long_training, "REGIMES", ("plain", "pan"))
    recipe = LongRecipe(
        1.5,
        4,
        3,
        see_steps=4,
        rows=1200,
        lengths={8: 0.5, 16: 0.5},
        footage=6,
        held=9,
        few_clips=12,
        validation=1,
        every=0.5,
    )

    class CutOffError(Exception):
        pass

    def cut(row):
        if row["part"] == stop:
            raise CutOffError

    monkeypatch.setattr(long_training, "LongRecipe", lambda: recipe)
    for stop in ("answer", "few"):
        with pytest.raises(CutOffError):
            train_long(tmp_path, weights, "cpu", 2, cut)
        assert Checkpoint(tmp_path, build_model()).part == stop
    saved = Checkpoint(tmp_path, build_model())
    assert saved.clips > 0
    rows = []
    trained = load_file(train_long(tmp_path, weights, "cpu", 2, rows.append))
    assert trained.keys() == weights.keys() and not (tmp_path / "state.safetensors").exists()
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())
    parts = [row["part"] for row in rows]
    assert set(parts) == {"start", "few"}
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    starts = [i for i, row in enumerate(told) if row["part"] == "start"]
    assert len(starts) == 3 and told[starts[-1] :] == rows
    assert {row["part"] for row in told[: starts[-1]]} == {"start", "see", "answer"}  # what was cut is told once
    assert not torch.equal(trained["lm_head.weight"], weights["lm_head.weight"])
    changed = {name for name in weights if not torch.equal(trained[name], weights[name])}
    assert {"model.visual.merger.mlp.2.weight", "model.language_model.norm.weight"} <= changed
