"""Two memories of one stream: each is what the live stream's own would be, and their difference is paired."""

from types import SimpleNamespace
from typing import Any

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError
from score_edge.evaluation import remembering
from score_edge.evaluation.remembering import MemoryAnswers, MemoryPlan, compare_memories, difference
from score_edge.reference import world
from score_edge.reference.moments import TimedQuestion
from score_edge.runtime.live.stream import Stream, StreamOptions
from score_edge.runtime.pipeline import Pipeline
from score_edge.runtime.sources.open_source import open_source

pytest.importorskip("llama_cpp")


@pytest.mark.parametrize("selector", [None, "score-query"])
def test_both_hold_and_say_what_a_live_stream_does(selector: str | None) -> None:
    """At the end of a clip, against `Stream` itself with the same options."""
    plan = MemoryPlan(clips=1, steps=16, retention=0.25, selector=selector)
    asked = [each for each in compare_memories("reference", plan) if each.question.step == 16]
    assert asked
    clip = world.make_clip(plan.seed, 0, 16)
    assert {each.question.text: each.question.answer for each in asked}.items() >= {
        (question.text, question.answer) for question in clip.questions if question.kind == "direction"
    }
    for arm, options in enumerate(
        (StreamOptions(retention=0.25, selector=selector), StreamOptions(memory="newest", window=4))
    ):
        with Pipeline(Bundle.open("reference"), context=4096, threads=1) as pipeline:
            stream = Stream(pipeline, open_source("synthetic://?steps=16&scene=16"), options)
            stream.run()
            assert {each.tokens[arm] for each in asked} == {stream.memory.tokens}
            for each in asked:
                said = "".join(stream.memory.answer(each.question.text, 8)).strip().lower()
                assert each.right[arm] == (said == each.question.answer)


def test_the_difference_is_paired_and_its_interval_is_over_clips() -> None:
    question = TimedQuestion(8, "past", "count", "how many?", "two")
    rights = [(True, False), (True, True), (True, False), (False, True)] * 10
    asked = [MemoryAnswers(clip, question, right, (1, 1), (0.0, 0.0)) for clip, right in enumerate(rights)]
    found = difference(asked)
    assert (found.asked, found.ours, found.newest, found.difference) == (40, 0.75, 0.5, 0.25)
    # The values 1, 0, 1, -1 of forty clips: standard error of their mean.
    half = 1.959964 * ((10 * (0.75**2 + 0.25**2 + 0.75**2 + 1.25**2) / 39) ** 0.5) / 40**0.5
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half))
    twice = difference([each for each in asked for _ in range(2)])
    assert twice.low == pytest.approx(found.low)  # asking everything twice tells no more


def test_one_clip_decides_nothing() -> None:
    question = TimedQuestion(8, "past", "count", "how many?", "two")
    found = difference([MemoryAnswers(0, question, (True, False), (1, 1), (0.0, 0.0))] * 3)
    assert (found.low, found.difference, found.high) == (-1, 1, 1)


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"clips": 1, "steps": 4}, {"clips": 1, "newest": 0}])
def test_nothing_to_compare_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ScoreEdgeError, match="compare nothing"):
        MemoryPlan(**wrong)


def test_the_first_word_is_timed_and_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 12.0, 14.0])
    monkeypatch.setattr(remembering.time, "perf_counter", lambda: next(clock))
    memory: Any = SimpleNamespace(answer=lambda question, most: iter(["Red", " ball ", "\n"]))
    assert remembering._ask(memory, "what moved?") == ("red ball", 0.5)
