import pytest

pytest.importorskip("transformers")

from score_edge.reference.tokenizer import PROMPT_AFTER, PROMPT_BEFORE, SPECIAL_TOKENS, build_tokenizer
from score_edge.reference.world import COLORS, DIRECTIONS, NUMBERS, SHAPES, vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_it_is_built_the_same_every_time(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_every_answer_is_one_token(tokenizer):
    for answer in (*COLORS, *SHAPES, *DIRECTIONS, *NUMBERS):
        assert len(tokenizer(answer).input_ids) == 1


@pytest.mark.parametrize("text", ["", "naïve café 東京 🦊\n\n  x", *vocabulary()[:5]])
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_special_tokens_are_single_and_skipped_when_decoding(tokenizer):
    ids = tokenizer(PROMPT_BEFORE + PROMPT_AFTER.format(question="?")).input_ids
    found = [token for token in tokenizer.convert_ids_to_tokens(ids) if token in SPECIAL_TOKENS]
    assert found == ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|im_end|>", "<|im_start|>"]
    assert "<|" not in tokenizer.decode(ids, skip_special_tokens=True)
