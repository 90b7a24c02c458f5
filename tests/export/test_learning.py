"""A policy for every family, learned through the runtime's own backend: from footage alone, and the reward rises."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("llama_cpp")

from score_edge.core import Frame  # noqa: E402
from score_edge.learning.curriculum import Scene  # noqa: E402
from score_edge.learning.features import Features  # noqa: E402
from score_edge.learning.frozen_model import FrozenModel  # noqa: E402
from score_edge.learning.policy_start import new_policy, policy_inputs  # noqa: E402
from score_edge.learning.policy_training import Scenes, train_policy  # noqa: E402
from score_edge.learning.recipe import PolicyRecipe  # noqa: E402
from score_edge.learning.rewards import quality  # noqa: E402
from score_edge.learning.rollouts import draw_masks, generator, rate_bias  # noqa: E402

STEPS = 3
RECIPE = PolicyRecipe(
    steps=12, clips=2, rollouts=12, warm_steps=0, still_share=0, hidden=8, learning_rate=5e-2, lowest=0.2, highest=0.4
)


@pytest.mark.slow
def test_the_expected_reward_rises_on_a_fixed_batch(
    bundled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer answers of random weights are as good as impossible, whatever is kept.
    monkeypatch.setattr("score_edge.learning.features.LONGEST_ANSWER", 1)
    vision = bundled.bundle.manifest.vision

    def scene(seed: int) -> Scene:
        rng = np.random.default_rng(seed)
        shape = (STEPS * vision.frames_per_step, vision.height, vision.width, 3)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        frames = [Frame(image, i / vision.fps, i) for i, image in enumerate(images)]
        return Scene(f"noise {seed}", lambda: (frames, [("What moved?", None), ("What is there?", None)]))

    # Of qwen3_5's random weights 12 steps learn too little to show.
    recipe = dataclasses.replace(RECIPE, steps=24) if bundled.bundle.manifest.family == "qwen3_5" else RECIPE
    with FrozenModel(bundled.bundle, steps=STEPS, threads=1) as model:
        features = Features(tmp_path / "features", model, 64 << 20)
        scenes = [scene(seed) for seed in range(2)]
        features.prepare(scenes)
        clips = [features.read(each) for each in scenes]

        def expected(policy: Any) -> float:
            """Quality of masks drawn at 30 %: how much likelier they make the unpruned model's own answers."""
            found = []
            for i, clip in enumerate(clips):
                with torch.no_grad():
                    logits = policy.logits(*policy_inputs(clip))
                masks = draw_masks(logits + rate_bias(logits, 0.3), 16, generator(7, i))
                loss = model.losses([clip] * 16, list(masks.view(16, *clip.tokens.shape[:2])))
                found.append(quality(torch.stack(loss), clip.unpruned).mean())
            return float(torch.stack(found).mean())

        before = expected(new_policy(clips, recipe))
        after = expected(train_policy(tmp_path / "run", model, features, Scenes([], scenes), recipe))
    assert after > before
