"""llama.cpp's chain against its own words: probabilities of draws, penalties, where stop texts cut."""

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.sampling import Sampling, StopTexts

pytest.importorskip("llama_cpp")


def draws(logits: list[float], count: int, **options: float) -> np.ndarray:
    from score_edge.bundle.folder import Bundle
    from score_edge.runtime.language.llama_cpp import LlamaCpp
    from score_edge.runtime.language.llama_sampler import LlamaSampler

    with LlamaCpp(Bundle.open("reference").gguf_path, context=64, threads=1) as model:
        sampler = LlamaSampler(model.vocab, len(logits), Sampling(seed=7, **options))
        drawn = [sampler.draw(np.array(logits, np.float32)) for _ in range(count)]
    return np.bincount(drawn, minlength=len(logits)) / count


def test_draws_follow_the_softmax() -> None:
    logits = [2.0, 1.0, 0.0, -1.0]
    for temperature in (0.7, 1.5):
        wanted = np.exp(np.array(logits) / temperature)
        assert np.abs(draws(logits, 4000, temperature=temperature) - wanted / wanted.sum()).max() < 0.03


def test_top_p_leaves_the_unlikely_out() -> None:
    found = draws([2.0, 1.9, -1.0, -1.0], 500, temperature=1.0, top_p=0.8)
    assert found[2:].sum() == 0 and found.min(initial=1, where=[True, True, False, False]) > 0.3


def test_greedy_and_penalty() -> None:
    assert draws([1.0, 3.0, 2.9], 10)[1] == 1
    assert draws([1.0, 3.0, 2.9], 2, repeat_penalty=2.0).tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("cuts", [1, 2, 3, 7])
def test_stop_texts_in_pieces_of_any_size(cuts: int) -> None:
    text, stops = "abcabcabd and more", ("abd", "zzz")
    stop = StopTexts(stops)
    shown = "".join(stop.feed(text[at : at + cuts]) for at in range(0, len(text), cuts) if not stop.found)
    assert stop.found and shown + stop.rest() == "abcabc"


def test_what_was_held_back_comes_at_the_end() -> None:
    stop = StopTexts(("END",))
    assert stop.feed("the EN") + stop.rest() == "the EN" and not stop.found


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 2}, {"repeat_penalty": 0}, {"stop": ("",)}])
def test_values_out_of_range(wrong: dict) -> None:
    with pytest.raises(ScoreEdgeError):
        Sampling(**wrong)
