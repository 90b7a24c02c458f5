"""Packed rollouts against the plain forward of transformers, one question and one mask at a time."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning.features import Features  # noqa: E402
from score_edge.learning.frozen_model import load_frozen  # noqa: E402
from score_edge.learning.gguf_reading import read_qwen2_vl, read_tokenizer  # noqa: E402
from score_edge.learning.packing import Clip, Question, pack  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.reference.tokenizer import build_tokenizer  # noqa: E402

BUNDLE = Bundle.open("reference")


@pytest.fixture(scope="module")
def model():
    return load_frozen(BUNDLE)


@pytest.fixture(scope="module")
def clips(model):
    made = []
    for index, steps in ((3, 5), (4, 8)):
        clip = world.make_clip(world.VALIDATION_SEED, index, steps)
        tokens = torch.from_numpy(model.encode(list(clip.images))).half()
        # The third answer has several tokens.
        asked = [model.question(q.text, q.answer) for q in clip.questions[:2]]
        asked.append(model.question(clip.questions[2].text, "which came first, the red ring?"))
        made.append(Clip(tokens, asked, torch.zeros(3)))
    return made


def plain_loss(weights, clip: Clip, keep: torch.Tensor, question: Question) -> float:
    """Mean CE of the answer, written from DESIGN: kept rows at (t, h, w), text behind the unpruned grid, causal."""
    before = read_tokenizer(BUNDLE.gguf_path)(BUNDLE.manifest.prompt.before, add_special_tokens=False).input_ids
    text = [*question.prompt, *question.answer]
    embed = weights.get_input_embeddings()
    t, cell = np.nonzero(keep.numpy())
    with torch.no_grad():
        rows = torch.cat([embed(torch.tensor(before)), clip.tokens[t, cell].float(), embed(torch.tensor(text))])
        start, behind = len(before), len(before) + max(len(keep), 6)
        places = [(i, i, i) for i in range(start)]
        places += [(start + a, start + b // 6, start + b % 6) for a, b in zip(t, cell, strict=True)]
        places += [(behind + i,) * 3 for i in range(len(text))]
        positions = torch.tensor(places).T[:, None]
        hidden = weights.get_decoder()(inputs_embeds=rows[None], position_ids=positions, use_cache=False)[0][0]
        logits = weights.get_output_embeddings()(hidden).numpy().astype(np.float64)
    losses = []
    for j, target in enumerate(question.answer):
        row = logits[len(rows) - len(question.answer) - 1 + j]
        losses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
    return float(np.mean(losses))


def test_packed_rollouts_cost_what_each_costs_alone(model, clips):
    weights = read_qwen2_vl(BUNDLE.gguf_path)
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (clip, torch.rand(clip.tokens.shape[:2], generator=generator) < rate) for clip in clips for rate in (0.1, 0.6)
    ]
    found = model.losses(*map(list, zip(*pairs, strict=True)))
    for (clip, keep), losses in zip(pairs, found, strict=True):
        expected = [plain_loss(weights, clip, keep, question) for question in clip.questions]
        assert np.allclose(losses, expected, atol=2e-4)


def test_the_order_of_rollouts_and_their_number_do_not_matter(model, clips):
    keeps = [torch.ones(clip.tokens.shape[:2], dtype=torch.bool) for clip in clips]
    together = model.losses(clips, keeps)
    for clip, keep, losses in zip(clips, keeps, together, strict=True):
        assert torch.allclose(model.losses([clip], [keep])[0], losses, atol=1e-4)


def test_the_models_own_answers_cost_least(model, clips):
    """Greedy answers are what the runtime says, and no one-token answer is likelier."""
    clip = clips[1]
    question = world.make_clip(world.VALIDATION_SEED, 4, 8).questions[0]
    (own,) = model.answer(clip.tokens, [question.text], 4)
    keep = torch.ones(clip.tokens.shape[:2], dtype=torch.bool)
    rivals = [Clip(clip.tokens, [model.question(question.text, [i])], torch.zeros(1)) for i in (own[0], 5, 300)]
    losses = [float(loss) for loss in model.losses(rivals, [keep] * 3)]
    assert min(losses) == losses[0]


def test_plain_rope_numbers_kept_tokens_through():
    tokens = torch.zeros(2, 4, 3, dtype=torch.float16)
    keep = torch.tensor([[True, False, False, True], [False, True, False, False]])
    packed = pack([Clip(tokens, [Question([7, 8], [9])], torch.zeros(1))], [keep], 2, (2, 2), compact=True)
    assert packed.positions[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    spread = pack([Clip(tokens, [Question([7, 8], [9])], torch.zeros(1))], [keep], 2, (2, 2))
    assert spread.positions[:, 0].T.tolist()[2:] == [[2, 2, 2], [2, 3, 3], [3, 2, 3], [4, 4, 4], [5, 5, 5]]


def test_a_gguf_gives_its_tokenizer_back():
    ours, theirs = read_tokenizer(BUNDLE.gguf_path), build_tokenizer()
    for text in (*world.vocabulary(), BUNDLE.manifest.prompt.ask("how many things moved fast?")):
        assert ours(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids


def test_what_cannot_be_learned_for_is_refused(tmp_path):
    unknown = dataclasses.replace(BUNDLE, manifest=dataclasses.replace(BUNDLE.manifest, family="idefics3"))
    with pytest.raises(ScoreEdgeError, match="family idefics3 cannot be learned yet"):
        load_frozen(unknown)
    with pytest.raises(ScoreEdgeError, match="is not a Qwen2-VL checkpoint"):
        load_frozen(BUNDLE, tmp_path)


def test_a_checkpoint_takes_the_place_of_the_gguf(model, clips, tmp_path):
    read_qwen2_vl(BUNDLE.gguf_path).save_pretrained(tmp_path)
    read_tokenizer(BUNDLE.gguf_path).save_pretrained(tmp_path)
    keeps = [torch.ones(clip.tokens.shape[:2], dtype=torch.bool) for clip in clips]
    for one, two in zip(model.losses(clips, keeps), load_frozen(BUNDLE, tmp_path).losses(clips, keeps), strict=True):
        assert torch.allclose(one, two, atol=1e-5)


def test_features_are_made_once_and_bounded(model, tmp_path):
    from score_edge.learning.curriculum import Scene, world_stills

    loaded = []
    (still,) = world_stills(1, 3)

    def load():
        loaded.append(1)
        return still.load()

    scene = Scene(still.name, load)
    features = Features(tmp_path, model, 1 << 20)
    for _ in range(2):
        features.prepare([scene])
    clip = features.read(scene)
    assert len(loaded) == 1
    assert clip.tokens.dtype == torch.float16 and clip.tokens.shape == (3, 36, 192)
    assert len(clip.unpruned) == len(clip.questions) > 0 and (clip.unpruned > 0).all()
    assert len(features.fit([scene] * 100, 3)) == (1 << 20) // (3 * 36 * 192 * 2)
    with pytest.raises(ScoreEdgeError, match="one clip takes"):
        Features(tmp_path, model, 1000).fit([scene], 3)
    features.path(scene).write_bytes(b"cut")
    with pytest.raises(ScoreEdgeError, match="is damaged"):
        features.read(scene)


def test_without_answers_the_models_own_are_the_targets(model, tmp_path):
    from score_edge.learning.curriculum import Scene, world_scenes

    (moving,) = world_scenes(1, 4)
    images, asked = moving.load()
    scene = Scene("own", lambda: (images, [(text, None) for text, _ in asked[:3]]))
    features = Features(tmp_path, model, 1 << 20)
    features.prepare([scene])
    clip = features.read(scene)
    assert len(clip.questions) == 3
    assert (torch.exp(-clip.unpruned) > 0.2).all()  # likelier than any other first word
