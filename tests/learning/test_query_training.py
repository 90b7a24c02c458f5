import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.learning.long_clips import encode, receive  # noqa: E402
from score_edge.learning.long_evaluation import mark  # noqa: E402
from score_edge.learning.query_training import (  # noqa: E402
    QueryRecipe,
    QueryTraining,
    answered,
    batched_inputs,
    word_vectors,
)
from score_edge.learning.reference_bundle import read_reference_bundle  # noqa: E402
from score_edge.learning.reference_model import build_model, step_encoder  # noqa: E402
from score_edge.learning.world_data import Prompts  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.reference.clip_farm import ClipFarm, Wanted  # noqa: E402
from score_edge.selection.residual import background_tokens, previous_tokens  # noqa: E402

STEPS = 6


@pytest.fixture(scope="module")
def model():
    model = build_model().eval()
    model.load_state_dict(read_reference_bundle(Bundle.open("reference")))
    return model


@pytest.fixture(scope="module")
def clips(model):
    with ClipFarm([Wanted(world.TEST_SEED, i, STEPS, "plain") for i in range(3)], STEPS, 1) as farm:
        return encode(step_encoder(model), [receive(rendered, Prompts(), torch.device("cpu")) for rendered in farm])


def test_the_words_of_a_question_are_its_own(model, clips):
    prompts = Prompts()
    words = word_vectors(model, prompts, clips)
    table = model.model.language_model.embed_tokens.weight
    for index, clip in enumerate(clips):
        for slot, question in enumerate(world.make_clip(world.TEST_SEED, index, STEPS).questions):
            assert torch.allclose(words[index, slot], table[prompts.ids(question.text)].mean(dim=0), atol=1e-5)
        assert int((clip.asked[:, -3] > 0).sum()) == slot + 1


def test_it_sees_what_the_policy_sees_that_does_not_know_the_question(clips):
    tokens, previous, background = batched_inputs(clips)
    whole = tokens.view(3, STEPS, -1, tokens.shape[-1]).numpy()
    for i in range(3):
        assert np.array_equal(previous[i].numpy(), previous_tokens(whole[i]).reshape(previous[i].shape))
        assert np.allclose(background[i].numpy(), background_tokens(whole[i]).reshape(previous[i].shape), atol=1e-6)


def test_one_question_is_answered_as_if_all_were_asked(model, clips):
    masks = torch.ones(3, len(clips[0].tokens), dtype=torch.bool)
    first, answers = answered(model, Prompts(), clips, torch.zeros(3, dtype=torch.long), masks)
    assert len(first) == len(answers) == 3
    marks = mark(model, Prompts(), clips)
    starts = torch.tensor([0, *torch.tensor([int((clip.asked[:, -3] > 0).sum()) for clip in clips]).cumsum(0)[:-1]])
    assert torch.equal(first.argmax(dim=-1) == answers, marks.right[starts])


def test_it_learns_from_what_is_likely(model, clips):
    torch.manual_seed(0)
    recipe = QueryRecipe(6, clips=2, rollouts=4, lowest=0.05, highest=0.2, warm_steps=5)
    rows = []
    run = QueryTraining(model, Prompts(), clips, recipe)
    before = {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}
    policy = run.run(rows.append)
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())
    assert not torch.equal(policy.asked_first.weight, before["asked_first.weight"])


def test_before_any_reward_it_learns_where_the_answer_is_seen(model, clips):
    torch.manual_seed(0)
    run = QueryTraining(model, Prompts(), clips, QueryRecipe(0, warm_steps=60))
    policy = run.run()
    tokens, previous, background = batched_inputs(clips)
    words = word_vectors(model, Prompts(), clips)
    carries = torch.stack([clip.evidence for clip in clips]).int() & 1 > 0  # to the first question
    with torch.no_grad():
        logits = policy.logits(tokens, previous, background, words[:, :1])
    assert logits[carries].mean() > logits[~carries].mean() + 2
