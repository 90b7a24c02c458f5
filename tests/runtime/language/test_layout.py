import dataclasses
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.core import Grid, KeptTokens
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Question, Rows, Segment
from score_edge.runtime.language.layout import ClipWriter, Layout, StepTokens, joined

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
    made = Layout.of(manifest(Prompt("a {frames} {duration} ", "[{question}]"))).clip(kept, TIMES)
    text, rows = made.segments
    assert text == "a two 0:01:03 " and made.tail == ""
    assert isinstance(rows, Rows) and rows.places.tolist() == kept.positions.tolist() and rows.extent == 4
    assert np.array_equal(rows.embeddings, kept.embeddings) and not rows.continues


def test_steps_between_their_texts_and_a_step_without_tokens_left_out() -> None:
    prompt = Prompt("<", "{question}", step="[{number} {clock} {seconds} {tokens}]", between="; ")
    made = Layout.of(manifest(prompt)).clip(clip((0, 1), (1, 0), (1, 4), (3, 5)), TIMES)
    assert made.segments[::2] == ["<[1 00:00 0.2 ", "]; [2 00:01 1.2 ", "]; [4 01:03 63.2 "]
    assert made.tail == "]"
    rows = [part for part in made.segments if isinstance(part, Rows)]
    assert [part.places.tolist() for part in rows] == [[[0, 0, 1]], [[0, 0, 0], [0, 1, 1]], [[0, 1, 2]]]
    assert all(part.extent == 3 for part in rows)
    assert rows[1].embeddings[:, 0].tolist() == [24, 40]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.25, 1.25, 2.25, 3.25], [0, 2, 4, 6]),
        ([0.24, 1.26, 2.2, 3.2], [0, 2, 4, 6]),  # frames of a camera
        ([0.0, 3.0, 6.0, 9.0], [0, 6, 12, 18]),  # a long clip, sampled thinner
        ([0.0, 1.7, 3.4, 5.1], [0, 3, 6, 10]),
        ([0.0, 1.0, 4.5, 5.5], [0, 2, 9, 11]),  # a camera that was away
        ([0.0, 0.1, 0.2, 0.3], [0, 1, 2, 3]),  # two steps never share a position
    ],
)
def test_time_positions_count_seconds(times: list[float], expected: list[int]) -> None:
    kept = clip((0, 0), (1, 1), (2, 2), (3, 3))
    _, rows = Layout.of(manifest(Prompt("a", "{question}"), time_scale=2.0)).clip(kept, times).segments
    assert isinstance(rows, Rows)
    assert rows.places[:, 0].tolist() == expected and rows.extent == max(expected[-1] + 1, 3)
    assert rows.places[:, 1:].tolist() == kept.positions[:, 1:].tolist()


def test_rows_that_close_a_clip() -> None:
    newline = np.ones((2, 4), np.float32)
    made = Layout.of(manifest(Prompt("a", "{question}")), newline).clip(clip((2, 0)), TIMES)
    text, _, closing = made.segments
    assert text == "a" and isinstance(closing, Rows) and closing.places.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_a_question_takes_the_text_before_it_along() -> None:
    asked = Layout.of(manifest(Prompt("a", "<end>{question}\nanswer: "))).question("]", "what?")
    assert asked == Question("]<end>", "what?", "\nanswer: ")


@pytest.mark.parametrize("step", ["", "[{number} {clock} {tokens}]"])
def test_step_by_step_is_the_whole_clip(step: str) -> None:
    """What a stream appends, one step after the other, is what `ask` appends at once."""
    layout = Layout.of(manifest(Prompt("a ", "{question}", step=step, between=", ")))
    kept = clip((0, 0), (0, 3), (2, 2), (3, 3))
    writer = ClipWriter(layout, layout.opening(3, TIMES[-1]))
    segments: list[Segment] = []
    for t in range(4):
        here = kept.positions[:, 0] == t
        tokens = (kept.positions[here] @ np.array([0, 3, 1])).astype(np.int32)
        segments += writer.step(StepTokens(t, TIMES[t], kept.embeddings[here], tokens))
    made = layout.clip(kept, TIMES)
    assert writer.tail == made.tail
    for found, expected in zip(joined(segments), made.segments, strict=True):
        if isinstance(expected, Rows):
            assert isinstance(found, Rows) and found.extent == expected.extent
            assert np.array_equal(found.embeddings, expected.embeddings)
            assert np.array_equal(found.places, expected.places)
        else:
            assert found == expected


@pytest.mark.parametrize("times", [TIMES[:3], []])
def test_a_time_for_every_step(times: list[float]) -> None:
    with pytest.raises(ScoreEdgeError, match="for a clip of 4 steps"):
        Layout.of(manifest(Prompt("", "{question}"))).clip(clip((2, 0)), times)


def test_nothing_kept() -> None:
    nothing: Any = dataclasses.replace(
        clip((0, 0)), embeddings=np.zeros((0, 4), np.float32), positions=np.zeros((0, 3))
    )
    with pytest.raises(ScoreEdgeError, match="0 kept tokens"):
        Layout.of(manifest(Prompt("", "{question}"))).clip(nothing, TIMES)


def steps_of(*tokens: int, name: int = 0) -> list[StepTokens]:
    """A step per token."""
    rows = np.full((1, 4), name, np.float32)
    return [StepTokens(n, n / 2, rows, np.array([token], np.int32)) for n, token in enumerate(tokens)]


def test_several_clips_each_in_its_wrapper_behind_its_name() -> None:
    layout = Layout.of(manifest(Prompt("<|user|>\n<|see|><|start|>", "<|end|>{question}<|assistant|>")))
    made = layout.clips([("front", steps_of(0, 3)), ("yard", steps_of(5, name=1))])
    first, front, between, yard = made.segments
    assert (first, between) == ("<|user|>\nfront: <|see|><|start|>", "<|end|> yard: <|see|><|start|>")
    assert isinstance(front, Rows) and front.places.tolist() == [[0, 0, 0], [1, 1, 0]] and front.extent == 3
    assert isinstance(yard, Rows) and yard.places.tolist() == [[0, 1, 2]] and not yard.continues
    assert layout.question(made.tail, "what?") == Question("<|end|>", "what?", "<|assistant|>")


def test_several_clips_where_nothing_or_every_step_has_a_wrapper() -> None:
    made = Layout.of(manifest(Prompt("user\n", "\n{question}"))).clips([("a", steps_of(0)), ("b", steps_of(1))])
    assert made.segments[::2] == ["user\na: ", " b: "] and made.tail == ""
    prompt = Prompt("<|user|>{frames}, {duration}: ", "<|end|>{question}", step="{number}<s>{tokens}</s>", between=",")
    made = Layout.of(manifest(prompt)).clips([("a", steps_of(0, 1, 2)), ("b", steps_of(1))])
    assert made.segments[::2] == ["<|user|>four, 0:00:01: a: 1<s>", "</s>,2<s>", "</s>,3<s>", "</s> b: 1<s>"]
    assert made.tail == "</s>"
    empty = StepTokens(3, 1.5, np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    made = Layout.of(manifest(prompt)).clips([("a", [*steps_of(0, 1, 2), empty]), ("b", steps_of(1))])
    assert made.segments[0] == "<|user|>four, 0:00:01: a: 1<s>"  # nothing is shown of the fifth
    newline = np.ones((1, 4), np.float32)
    made = Layout.of(manifest(Prompt("u ", "{question}")), newline).clips([("a", steps_of(0)), ("b", steps_of(1))])
    assert [len(part) for part in made.segments if isinstance(part, Rows)] == [1, 1, 1, 1]
