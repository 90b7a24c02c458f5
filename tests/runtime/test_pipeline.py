import numpy as np
import pytest

from score_edge.bundle.folder import Bundle
from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline

pytest.importorskip("llama_cpp")

STEPS = 12


@pytest.fixture(scope="module")
def pipeline():
    with Pipeline(Bundle.open("reference"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def clip():
    return world.make_clip(world.TEST_SEED, 3, STEPS)


@pytest.fixture(scope="module")
def encoded(pipeline, clip):
    return pipeline.encode(clip.frames())


def test_encode_gives_every_token_of_every_step(pipeline, clip, encoded, monkeypatch):
    assert encoded.tokens.shape == (STEPS, 36, 192) and encoded.tokens.dtype == np.float32
    assert [frame.index for frame in encoded.frames] == list(range(1, 2 * STEPS, 2))
    assert encoded.encoded.shape == (STEPS, 36) and encoded.encoded[0].all() and encoded.encoded.mean() < 0.9
    monkeypatch.setattr(pipeline.vision, "threshold", -1.0)
    alone = pipeline.encode(clip.frames()[4:6]).tokens[0]
    whole = pipeline.encode(clip.frames())
    assert whole.encoded.all() and np.array_equal(alone, whole.tokens[2])


def test_a_last_step_short_of_frames_repeats_its_last_frame(pipeline, clip):
    frames = clip.frames()[:3]
    assert np.array_equal(pipeline.encode(frames).tokens, pipeline.encode([*frames, frames[-1]]).tokens)


def test_no_frame_is_an_error(pipeline):
    with pytest.raises(ScoreEdgeError, match="no frames"):
        pipeline.encode([])


@pytest.mark.parametrize(
    ("name", "retention", "count"), [("last-kept", 0.1, 43), ("evs", 0.25, 108), ("all", 0.1, 432)]
)
def test_select_keeps_exactly_the_retention_and_all_keeps_all(pipeline, encoded, name, retention, count):
    assert pipeline.select(encoded.tokens, pipeline.selector(name), retention).sum() == count


def test_gather_keeps_rows_and_their_places(encoded):
    rng = np.random.default_rng(0)
    mask = rng.random((STEPS, 36)) < 0.3
    kept = KeptTokens.gather(encoded.tokens, mask, Grid(6, 6))
    assert (kept.kept, kept.total) == (mask.sum(), mask.size)
    for row, (t, h, w) in zip(kept.embeddings, kept.positions, strict=True):
        assert mask[t, h * 6 + w] and np.array_equal(row, encoded.tokens[t, h * 6 + w])


def test_questions_do_not_disturb_each_other(pipeline, clip, encoded):
    keep = pipeline.select(encoded.tokens, pipeline.selector("last-kept"), 0.25)
    texts = [question.text for question in clip.questions]
    pipeline.watch(encoded.tokens, keep)
    in_a_row = ["".join(pipeline.ask(text, 8)) for text in texts * 2]
    alone = []
    for text in texts:
        pipeline.watch(encoded.tokens, keep)
        alone.append("".join(pipeline.ask(text, 8)))
    assert in_a_row == alone * 2


def test_the_timed_answer_is_the_same_answer(pipeline, clip, encoded):
    question = clip.questions[0].text
    selector = pipeline.selector("last-kept")
    pieces: list[str] = []
    answer, keep = pipeline.answer(
        encoded, question, selector=selector, retention=0.5, max_tokens=8, on_text=pieces.append
    )
    pipeline.watch(encoded.tokens, keep)
    assert answer.text == "".join(pieces) == "".join(pipeline.ask(question, 8))
    assert (answer.kept, answer.total) == (216, 432)
    timings = answer.timings
    assert min(timings.read, timings.preprocess, timings.encode, timings.select, timings.prefill) > 0
    assert timings.whole == pytest.approx(timings.ttft + timings.generate)


def test_asking_before_watching_is_an_error():
    with Pipeline(Bundle.open("reference"), threads=1) as fresh, pytest.raises(ScoreEdgeError, match="watched"):
        list(fresh.ask("what?"))


def test_a_clip_longer_than_the_context_is_an_error_that_says_what_to_do(encoded):
    with Pipeline(Bundle.open("reference"), context=256, threads=1) as small:
        keep = small.select(encoded.tokens, small.selector("all"), 1.0)
        with pytest.raises(ScoreEdgeError, match="context of 256 tokens is full") as error:
            small.watch(encoded.tokens, keep)
        assert "retention" in error.value.hint


def test_it_looks_again_until_it_is_sure_or_has_seen_everything(pipeline, encoded, clip):
    def answer(sure):
        selector = pipeline.selector("score")
        return pipeline.answer(encoded, clip.questions[0].text, selector=selector, retention=0.1, sure=sure)

    unasked, _ = answer(0.0)
    at_once, _ = answer(1e-9)
    never, keep = answer(1.0)
    assert unasked.looks == () and [look.kept for look in at_once.looks] == [43] and at_once.text == unasked.text
    assert [look.kept for look in never.looks] == [43, 173, 432] and keep.all() and never.kept == 432
    pipeline.watch(encoded.tokens, pipeline.select(encoded.tokens, pipeline.selector("score"), 0.1), encoded.times)
    pipeline.prefill_question(clip.questions[0].text)
    assert at_once.looks[0].probability == pytest.approx(np.exp(pipeline.sequence.score(unasked.text)[0]), rel=1e-3)
