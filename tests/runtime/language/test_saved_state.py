"""Models that cannot forget part of a sequence: an answer is given on a copy, and both ways are exact."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.manifest import Prompt
from score_edge.core import Grid
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language import llama_sequence
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.live.memory import VideoMemory

pytest.importorskip("llama_cpp")
VIDEO, QUESTION = "The red ball moved to the left, then it stopped.", " What moved?"


@pytest.fixture(scope="module")
def hybrid(tokenizer: Any, randomize: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LFM2: short convolutions and attention."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    from score_edge.export.gguf_model import write_gguf

    config = transformers.Lfm2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
        block_multiple_of=16,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    model = randomize(transformers.Lfm2ForCausalLM(config))
    return write_gguf(model, tokenizer, tmp_path_factory.mktemp("hybrid") / "lfm2.gguf", dtype="f32")


@pytest.fixture
def model(hybrid: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(hybrid, context=512, sequences=2, batch=16, threads=1, cache="f32") as opened:
        yield opened


def fresh(model: LlamaCpp, *texts: str) -> np.ndarray:
    sequence = model.sequence()
    for text in texts:
        sequence.append(text)
    logits: np.ndarray = sequence.logits()
    sequence.close()
    return logits


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    """Other sequences' cells in the pool change the order of sums, no more."""
    return bool(np.abs(found - expected).max() < 1e-4)


def test_questions_leave_no_trace(model: LlamaCpp) -> None:
    assert model.capabilities.incremental
    expected = fresh(model, VIDEO, QUESTION)
    sequence = model.sequence()
    sequence.append(VIDEO)
    video = sequence.mark()
    for _ in range(3):
        sequence.append(QUESTION)
        assert np.array_equal(sequence.logits(), expected)
        list(sequence.generate(8))
        sequence.rollback(video)
    sequence.append(" It was red.")
    later = sequence.mark()
    scores = [sequence.score(" yes", QUESTION) for _ in range(2)]
    assert np.array_equal(*scores) and sequence.mark() == later
    sequence.append(QUESTION)
    assert near(sequence.logits(), fresh(model, VIDEO, " It was red.", QUESTION))


def test_two_sequences_do_not_see_each_other(model: LlamaCpp) -> None:
    alone = fresh(model, VIDEO, QUESTION)
    first, second = model.sequence(), model.sequence()
    with pytest.raises(ScoreEdgeError, match="every sequence"):
        model.sequence()
    first.append(VIDEO)
    second.append("Which object appeared briefly?")
    marks = first.mark(), second.mark()
    second.append(" A blue square.")
    first.append(QUESTION)
    second.rollback(marks[1])
    assert near(first.logits(), alone)
    first.rollback(marks[0])
    second.append(QUESTION)
    first.append(QUESTION)
    assert near(first.logits(), alone)


def test_only_the_last_mark_can_be_gone_back_to(model: LlamaCpp) -> None:
    sequence = model.sequence()
    sequence.append(VIDEO)
    first = sequence.mark()
    sequence.append(" It was red.")
    sequence.mark()
    sequence.append(QUESTION)
    with pytest.raises(ScoreEdgeError, match="only to where it was marked last; the sequence is empty"):
        sequence.rollback(first)
    assert sequence.mark().cells == 0
    sequence.append(VIDEO, QUESTION)
    assert np.isfinite(sequence.logits()).all()


def test_a_failure_in_the_middle_changes_nothing(model: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = model.sequence()
    sequence.append(VIDEO)
    here = sequence.mark()
    decode, calls = llama_sequence.decode, []

    def failing(*given: Any) -> int:
        calls.append(given)
        return 2 if len(calls) == 2 else decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(llama_sequence, "decode", failing)
        with pytest.raises(ScoreEdgeError, match="refused tokens 16 to 32"):
            sequence.append(QUESTION * 12)
    assert sequence.mark() == here
    sequence.append(QUESTION)
    assert near(sequence.logits(), fresh(model, VIDEO, QUESTION))


def test_what_it_costs_that_old_steps_leave(hybrid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays is prefilled again whenever a quarter has left: four times the tokens, and never more."""
    layout = Layout(Prompt("", "{question}"), Grid(4, 4))
    rows = np.random.default_rng(0).standard_normal((200, 16, 64)).astype(np.float32)
    count, decode = [0], llama_sequence.decode

    def counted(handle: Any, content: np.ndarray, *rest: Any) -> int:
        count[0] += len(content)
        return decode(handle, content, *rest)

    monkeypatch.setattr(llama_sequence, "decode", counted)
    with LlamaCpp(hybrid, context=512, threads=1, cache="f32") as model:
        memory = VideoMemory(model, model.sequence(), layout, cells=400)
        keep = np.ones(16, bool)
        keep[8:] = False
        for step in rows:
            memory.append(step, keep, np.zeros(16, np.float32))
        assert memory.rebased > 5 and memory.steps >= 30
    assert 3 < count[0] / (200 * 8) < 4.5


def test_an_answer_of_many_tokens_leaves_the_video_as_it_was(model: LlamaCpp) -> None:
    layout, rng = Layout(Prompt("", "{question}"), Grid(4, 4)), np.random.default_rng(0)
    rows = rng.standard_normal((6, 16, 64)).astype(np.float32)
    memories = [VideoMemory(model, model.sequence(), layout, cells=200) for _ in range(2)]
    for step in rows[:4]:
        for memory in memories:
            memory.append(step, np.ones(16, bool), np.zeros(16, np.float32))
    asked, used = memories[0], memories[0].used
    first = list(asked.answer(QUESTION, 8))
    assert len("".join(first)) > 8 and asked.used == used
    assert list(asked.answer(QUESTION, 8)) == first
    for memory in memories:
        memory.append(rows[4], np.ones(16, bool), np.zeros(16, np.float32))
    found, never_asked = ("".join(memory.answer(" What is there?", 8)) for memory in memories)
    assert found == never_asked and asked.used == used + 16


@pytest.mark.parametrize("during", ["a step", "an answer"])
def test_a_stream_goes_on_behind_what_llama_cpp_refused(
    model: LlamaCpp, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    """The sequence is empty then; what is held is prefilled again."""
    layout, rng = Layout(Prompt("", "{question}"), Grid(4, 4)), np.random.default_rng(0)
    rows, nothing = rng.standard_normal((6, 16, 64)).astype(np.float32), np.zeros(16, np.float32)
    memories = [VideoMemory(model, model.sequence(), layout, cells=200) for _ in range(2)]
    for step in rows[:4]:
        for memory in memories:
            memory.append(step, np.ones(16, bool), nothing)
    refused, decode, calls = memories[0], llama_sequence.decode, []

    def failing(*given: Any) -> int:
        calls.append(given)
        return 2 if len(calls) == 3 or during == "a step" else decode(*given)

    with monkeypatch.context() as patch:
        patch.setattr(llama_sequence, "decode", failing)
        with pytest.raises(ScoreEdgeError, match=r"llama\.cpp refused tokens"):
            if during == "a step":
                refused.append(rows[4], np.ones(16, bool), nothing)
            else:
                list(refused.answer(QUESTION, 8))
    assert refused.used == 0
    for memory in memories:
        memory.append(rows[5], np.ones(16, bool), nothing)
    found, never = ("".join(memory.answer(" What is there?", 8)) for memory in memories)
    assert found == never and refused.tokens == refused.used == 5 * 16
