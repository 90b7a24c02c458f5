"""The text in front of a stream, which may count its steps: true at any time, and seldom written again."""

from score_edge.bundle.manifest import Prompt
from score_edge.core import Grid
from score_edge.runtime.language.layout import Layout
from score_edge.runtime.live.opening import Opening

COUNTED = Layout(Prompt("See {frames} frames of {duration}.\n", "{question}", step="{clock} {tokens}"), Grid(2, 2))


def test_a_clip_is_named_to_the_step_and_the_second() -> None:
    opening = Opening(COUNTED)
    assert opening.write(3, 61.9, exactly=True) == opening.text == "See three frames of 0:01:01.\n"
    assert opening.holds(3, 61.0, exactly=True)
    assert not opening.holds(4, 61.9, exactly=True) and not opening.holds(3, 62.0, exactly=True)


def test_a_stream_grows_into_what_it_is_named() -> None:
    opening = Opening(COUNTED)
    assert opening.write(16, 15.0, exactly=False) == "See sixteen frames of 0:00:30.\n"
    held = [steps for steps in range(30) if opening.holds(steps, 20.0, exactly=False)]
    assert held == list(range(12, 21))
    assert opening.holds(16, 30.0, exactly=False) and not opening.holds(16, 31.0, exactly=False)


def test_what_counts_nothing_always_holds() -> None:
    opening = Opening(Layout(Prompt("<video>", "{question}"), Grid(2, 2)))
    opening.write(1, 0.0, exactly=True)
    assert opening.holds(1000, 1e6, exactly=True)


def test_the_first_text_of_an_empty_stream_is_that_of_one_step() -> None:
    assert Opening(COUNTED).write(0, 0.0, exactly=True) == "See one frames of 0:00:00.\n"
