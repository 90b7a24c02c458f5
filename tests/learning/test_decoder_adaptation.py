import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.bundle.folder import Bundle  # noqa: E402
from score_edge.learning import decoder_adaptation  # noqa: E402
from score_edge.learning.decoder_adaptation import AdaptationRecipe, DecoderAdaptation  # noqa: E402
from score_edge.learning.long_clips import batch_of  # noqa: E402
from score_edge.learning.reference_bundle import read_reference_bundle  # noqa: E402


@pytest.fixture(scope="module")
def run():
    pytest.importorskip("gguf")
    rows = []
    lengths = {16: 0.5, 32: 0.5}
    few = {"shares": (0.00625,), "least": 6}
    recipe = AdaptationRecipe(3, 1e-5, rows=3000, lengths=lengths, clips=6, held=6, workers=1, every=1, **few)
    run = DecoderAdaptation(read_reference_bundle(Bundle.open("reference")), "reference", recipe, "cpu", rows.append)
    return run, run.run(), rows


def test_the_decoder_alone_learns(run):
    start, ended = read_reference_bundle(Bundle.open("reference")), run[1]
    changed = {name for name in start if not torch.equal(start[name], ended[name].to(start[name].dtype))}
    assert changed and not any("visual" in name for name in changed)
    assert run[2][-1]["clips"] == 6
    assert {steps: len(held) for steps, held in run[0].held.items()} == {16: 2, 32: 4}


@pytest.mark.parametrize(("kind", "least"), [("whole", 0.95), ("score", 0.6)])
def test_what_selectors_keep_answers_the_questions(run, kind, least):
    with torch.no_grad():
        right = [float(run[0]._loss(kind)[1]) for _ in range(12)]
    assert sum(right) / len(right) > least  # of seven tokens; with those that another clip keeps 43 % is right


def test_a_question_is_asked_about_what_was_chosen_for_it(run, monkeypatch):
    seen = []

    def watched(clips, embedding, prompts, kept):
        seen.append((clips, kept))
        return batch_of(clips, embedding, prompts, kept)

    monkeypatch.setattr(decoder_adaptation, "batch_of", watched)
    run[0]._loss("query")
    held = {id(each.clip.tokens): each for clips in run[0].held.values() for both in clips for each in both}
    ((clips, kept),) = seen
    for clip, chosen in zip(clips, kept, strict=True):
        own = held[id(clip.tokens)]
        (slot,) = torch.nonzero((own.clip.asked == clip.asked).all(dim=1))[:, 0].tolist()
        assert set(own.queried[slot].argsort()[: len(chosen)].tolist()) == set(chosen.tolist())
