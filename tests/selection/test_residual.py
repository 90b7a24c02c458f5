"""What a token is compared with: the clip version, the streaming version, and that they agree."""

import tracemalloc

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.selection.residual import Residual, background_tokens, previous_tokens


def clip(steps: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((steps, 6, 5), np.float32)


def test_first_residual_is_the_step_itself() -> None:
    tokens = clip()
    residual = tokens - previous_tokens(tokens)
    assert np.array_equal(residual[0], tokens[0])
    for t in range(1, len(tokens)):
        assert np.array_equal(residual[t], tokens[t] - tokens[t - 1])


@pytest.mark.parametrize("steps", [0, 1])
def test_short_clips(steps: int) -> None:
    assert previous_tokens(clip(steps)).shape == (steps, 6, 5)
    assert not previous_tokens(clip(steps)).any()
    assert background_tokens(clip(steps)).shape == (steps, 6, 5)
    assert not background_tokens(clip(steps)).any()


def test_the_background_is_a_running_average_that_remembers_eight_steps() -> None:
    tokens = clip(30)
    found = background_tokens(tokens)
    assert not found[0].any() and np.array_equal(found[1], tokens[0])
    for t in (2, 9, 29):
        weights = np.array([1.0] + [1 / 8] * (t - 1)) * (7 / 8) ** np.arange(t - 1, -1, -1)
        assert weights.sum() == pytest.approx(1)
        assert np.allclose(found[t], np.einsum("t,tnd->nd", weights, tokens[:t].astype(float)), atol=1e-6)


def test_stream_equals_clip() -> None:
    tokens = clip()
    residual = Residual()
    frame = np.empty_like(tokens[0])  # a capture loop reuses its buffer
    for step, expected in zip(tokens, previous_tokens(tokens), strict=True):
        np.copyto(frame, step)
        assert np.array_equal(residual.advance(frame), expected)


def test_reset_starts_anew_with_any_shape() -> None:
    residual = Residual()
    residual.advance(np.ones((6, 5), np.float32))
    residual.reset()
    assert not residual.advance(np.ones((4, 3), np.float32)).any()


def test_change_of_shape_is_refused() -> None:
    residual = Residual()
    residual.advance(np.ones((6, 5), np.float32))
    with pytest.raises(ScoreEdgeError, match=r"from \(6, 5\) to \(4, 5\)"):
        residual.advance(np.ones((4, 5), np.float32))
    assert residual.advance(np.zeros((6, 5), np.float32)).all()


def test_stream_allocates_nothing() -> None:
    residual = Residual()
    step = np.ones((196, 896), np.float32)
    residual.advance(step)
    tracemalloc.start()
    for _ in range(50):
        residual.advance(step)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < step.nbytes / 100
