import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from score_edge.learning.policy_start import new_policy, policy_inputs  # noqa: E402
from score_edge.learning.prepared_clip import PreparedClip  # noqa: E402
from score_edge.learning.recipe import PolicyRecipe  # noqa: E402
from score_edge.selection.residual import previous_tokens  # noqa: E402

FEW = PolicyRecipe(warm_steps=150, hidden=8)


def uneven_clips(count: int) -> list[PreparedClip]:
    """Of different lengths; every channel has its own mean and spread, and one never changes."""
    rng = np.random.default_rng(0)
    clips = []
    for i in range(count):
        tokens = rng.standard_normal((2 + i % 3, 16, 6)) * [0.01, 1, 3, 10, 0.5, 0] + [20, -1, 0, 3, 100, 7]
        clips.append(PreparedClip(torch.from_numpy(tokens).half(), [], [], torch.zeros(0)))
    return clips


@pytest.mark.parametrize("residual", [True, False])
def test_a_policy_starts_with_the_statistics_of_all_clips(residual):
    clips = uneven_clips(9)
    tokens = np.concatenate([clip.tokens.double().numpy().reshape(-1, 6) for clip in clips])
    before = [previous_tokens(clip.tokens.float().numpy()).reshape(-1, 6) for clip in clips]
    change = tokens - np.concatenate(before)
    state = np.concatenate([tokens, change], axis=1)
    scale = 1 / np.maximum(state.std(axis=0, ddof=1), 1e-3 * state.std(ddof=1))
    if not residual:
        scale[6:] = 0
    policy = new_policy(clips, dataclasses.replace(FEW, residual=residual))
    assert policy.mean.numpy() == pytest.approx(state.mean(axis=0), rel=1e-6, abs=1e-7)
    assert policy.scale.numpy() == pytest.approx(scale, rel=1e-6)
    size = np.log(np.linalg.norm(change if residual else tokens, axis=1))
    with torch.no_grad():
        logits = torch.cat([policy.logits(*policy_inputs(clip)) for clip in clips]).numpy()
    target = FEW.warm_spread * (size - size.mean()) / size.std()
    assert np.corrcoef(logits, target)[0, 1] > 0.9


class Largest(TorchDispatchMode):
    """The most bytes of any tensor that torch makes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


def test_a_new_policy_never_holds_all_clips_in_one_piece():
    rng = np.random.default_rng(0)
    clips = [
        PreparedClip(torch.from_numpy(rng.standard_normal((8, 256, 64)).astype(np.float16)), [], [], torch.zeros(0))
        for _ in range(12)
    ]
    with Largest() as largest:
        new_policy(clips, dataclasses.replace(FEW, warm_steps=5))
    assert largest.bytes <= 4 * clips[0].tokens.numel()  # one clip in float32
