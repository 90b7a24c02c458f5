"""Against transformers' own computation: of the whole grid, with the rows of dropped tokens left out."""

from typing import Any

import numpy as np
import pytest

from score_edge.core import Grid, KeptTokens
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.mrope import mrope_positions, plain_positions, position_delta, rotary_cos_sin

LONG, WIDE = (12, 4, 5), (3, 4, 6)


def kept_of(shape: tuple[int, int, int], retention: float, width: int = 8) -> KeptTokens:
    steps, height, wide = shape
    rng = np.random.default_rng(0)
    mask = rng.random((steps, height * wide)) < retention
    mask[0, 0] = True
    rows = rng.standard_normal((steps, height * wide, width), dtype=np.float32)
    return KeptTokens.gather(rows, mask, Grid(height, wide))


def text(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


@pytest.mark.parametrize("shape", [LONG, WIDE])
@pytest.mark.parametrize("retention", [0.05, 0.3, 1.0])
def test_positions_are_those_of_transformers_without_the_dropped_tokens(qwen2_vl, shape, retention):
    torch = pytest.importorskip("torch")
    kept = kept_of(shape, retention)
    steps, height, width = shape
    before, after = 7, 5
    config = qwen2_vl.model.config
    video = [config.video_token_id] * (steps * height * width)
    ids = torch.tensor([[3] * before + video + [3] * after])
    kinds = torch.tensor([[0] * before + [2] * len(video) + [0] * after])
    merge = config.vision_config.spatial_merge_size
    grid = torch.tensor([[steps, height * merge, width * merge]])
    whole = qwen2_vl.model.model.get_rope_index(ids, kinds, video_grid_thw=grid)[0][:, 0].numpy()
    if steps > max(height, width):
        # As published and trained, text starts behind everything; transformers since 5.3 starts it at max(H, W).
        whole[:, before + len(video) :] = whole[:, : before + len(video)].max() + 1 + np.arange(after)
    places = np.ravel_multi_index(tuple(kept.positions.T), shape)
    seen = [*range(before), *(before + places), *range(before + len(video), whole.shape[1])]

    positions, following = mrope_positions([text(before), Rows.of(kept), text(after)])

    np.testing.assert_array_equal(positions, whole[:, seen])
    assert positions.dtype == np.int64
    assert following == whole.max() + 1
    delta = position_delta(positions.shape[1], following)
    assert delta.shape == (1, 1) and delta.dtype == np.int32
    assert positions.shape[1] + delta[0, 0] == following


def test_two_videos_and_text_between():
    one, two = kept_of(WIDE, 0.5), kept_of(LONG, 0.2)
    positions, following = mrope_positions([text(2), Rows.of(one), text(3), Rows.of(two)])
    assert positions[:, 2 + one.kept].tolist() == [2 + 6] * 3
    assert positions[0, 2 + one.kept + 3 :].min() >= 2 + 6 + 3
    assert following == 2 + 6 + 3 + 12
    assert mrope_positions([])[1] == 0


def test_plain_positions_close_up():
    positions, following = plain_positions(4)
    assert positions.tolist() == [[0, 1, 2, 3]] * 3 and following == 4


@pytest.mark.parametrize("shape", [LONG, WIDE])
def test_rotations_are_those_of_transformers(qwen2_vl, shape):
    torch = pytest.importorskip("torch")
    positions, _ = mrope_positions([text(5), Rows.of(kept_of(shape, 0.4)), text(3)])
    rotary: Any = qwen2_vl.model.get_decoder().rotary_emb
    cos, sin = rotary(torch.zeros(1, dtype=torch.float32), torch.from_numpy(positions[:, None]))
    head = cos.shape[-1]
    rope = qwen2_vl.model.get_decoder().config.rope_parameters
    room = positions.shape[1] + 10
    table = rotary_cos_sin(positions, head=head, theta=rope["rope_theta"], sections=rope["mrope_section"], length=room)
    assert table.shape == (1, room * head) and table.dtype == np.float32
    pairs = table.reshape(room, head // 2, 2)
    used = positions.shape[1]
    np.testing.assert_allclose(pairs[:used, :, 0], cos[0, :, : head // 2], atol=2e-6)
    np.testing.assert_allclose(pairs[:used, :, 1], sin[0, :, : head // 2], atol=2e-6)
    assert (pairs[used:, :, 0] == 1).all() and (pairs[used:, :, 1] == 0).all()


def test_rotations_refuse_what_does_not_fit():
    positions, _ = plain_positions(4)
    with pytest.raises(ValueError, match="sections"):
        rotary_cos_sin(positions, head=16, theta=1e4, sections=[1, 1, 1], length=8)
    with pytest.raises(ValueError, match="4 tokens for 3"):
        rotary_cos_sin(positions, head=16, theta=1e4, sections=[2, 3, 3], length=3)
