import dataclasses
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.layout import clip_prompt, in_words

HALF = (0.5, 0.5, 0.5)
GRID = Grid(2, 3)


def manifest(prompt: Prompt, time_scale: float | None = None) -> Manifest:
    vision = Vision(FileRef("e.onnx"), 16, 24, 4, 2, 2, HALF, HALF, "bicubic", fps=2.0, dim=4, grid=(2, 3))
    language = Language("mrope", 4096, 4, FileRef("llm.gguf"), time_scale=time_scale)
    return Manifest("m", "f", vision, Selection("evs"), language, prompt, Provenance("", "", "", {}))


def clip(*kept: tuple[int, int]) -> KeptTokens:
    """Four steps, of which these (step, token) are kept."""
    mask = np.zeros((4, 6), bool)
    mask[tuple(np.array(kept).T)] = True
    return KeptTokens.gather(np.arange(96, dtype=np.float32).reshape(4, 6, 4), mask, GRID)


TIMES = [0.25, 1.25, 2.25, 63.25]


def test_one_block() -> None:
    kept = clip((0, 1), (3, 5))
    made = clip_prompt(manifest(Prompt("a {frames} {duration} ", "{question}")), kept, TIMES)
    assert [text for text, _ in made.parts] == ["a two 0:01:03 "] and made.tail == ""
    assert made.parts[0][1] is kept


def test_steps_between_their_texts_and_a_step_without_tokens_left_out() -> None:
    prompt = Prompt("<", "{question}", step="[{number} {clock} {seconds} {tokens}]", between="; ")
    made = clip_prompt(manifest(prompt), clip((0, 1), (1, 0), (1, 4), (3, 5)), TIMES)
    assert [text for text, _ in made.parts] == ["<[1 00:00 0.2 ", "]; [2 00:01 1.2 ", "]; [4 01:03 63.2 "]
    assert made.tail == "]"
    assert [part.positions.tolist() for _, part in made.parts] == [[[0, 0, 1]], [[0, 0, 0], [0, 1, 1]], [[0, 1, 2]]]
    assert all(part.steps == 1 and part.grid == GRID for _, part in made.parts)
    assert made.parts[1][1].embeddings[:, 0].tolist() == [24, 40]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.25, 1.25, 2.25, 3.25], [0, 2, 4, 6]),
        ([0.24, 1.26, 2.2, 3.2], [0, 2, 4, 6]),  # frames of a camera
        ([0.0, 3.0, 6.0, 9.0], [0, 6, 12, 18]),  # a long clip, sampled thinner
        ([0.0, 1.7, 3.4, 5.1], [0, 3, 6, 10]),
    ],
)
def test_time_positions_count_seconds(times: list[float], expected: list[int]) -> None:
    kept = clip((0, 0), (1, 1), (2, 2), (3, 3))
    ((_, found),) = clip_prompt(manifest(Prompt("", "{question}"), time_scale=2.0), kept, times).parts
    assert found.positions[:, 0].tolist() == expected and found.steps == expected[-1] + 1
    assert found.positions[:, 1:].tolist() == kept.positions[:, 1:].tolist()


def test_rows_that_close_a_clip() -> None:
    newline = np.ones((2, 4), np.float32)
    made = clip_prompt(manifest(Prompt("a", "{question}")), clip((2, 0)), TIMES, newline)
    assert [text for text, _ in made.parts] == ["a", ""]
    assert made.parts[1][1].positions.tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("times", [TIMES[:3], []])
def test_a_time_for_every_step(times: list[float]) -> None:
    with pytest.raises(ScoreEdgeError, match="for a clip of 4 steps"):
        clip_prompt(manifest(Prompt("", "{question}")), clip((2, 0)), times)


def test_nothing_kept() -> None:
    nothing: Any = dataclasses.replace(
        clip((0, 0)), embeddings=np.zeros((0, 4), np.float32), positions=np.zeros((0, 3))
    )
    with pytest.raises(ScoreEdgeError, match="0 kept tokens"):
        clip_prompt(manifest(Prompt("", "{question}")), nothing, TIMES)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (1, "one"),
        (12, "twelve"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (132, "one hundred and thirty-two"),
        (1000, "one thousand"),
        (1024, "one thousand and twenty-four"),
        (2118, "two thousand, one hundred and eighteen"),
    ],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words
    try:
        from num2words import num2words
    except ImportError:
        return
    assert in_words(number) == num2words(number)
