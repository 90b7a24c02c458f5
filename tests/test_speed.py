"""The figures the README quotes for the shipped bundle. Run on its own: ``make benchmark``."""

import pytest

from score_edge.bundle.folder import Bundle
from score_edge.evaluation import comparison
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline

pytest.importorskip("llama_cpp")


@pytest.mark.benchmark
def test_a_tenth_of_the_tokens_is_prefilled_twelve_times_faster() -> None:
    """64 steps, everything from frames to the answer anew in each of five runs, pruned and unpruned interleaved."""
    clip = world.make_clip(world.TEST_SEED, 0, 64)
    with Pipeline(Bundle.open("reference")) as pipeline:
        found = comparison.compare(
            pipeline,
            lambda: pipeline.encode(clip.frames()),
            clip.questions[0].text,
            selector=pipeline.selector(),
            retention=0.1,
            runs=5,
        )
    for stage in found.speedup:
        pruned, unpruned = found.seconds[stage]
        print(f"{stage:8} {pruned * 1e3:7.1f} ms pruned, {unpruned * 1e3:7.1f} ms unpruned: {unpruned / pruned:.1f}x")
    assert found.speedup["prefill"] >= 12
    assert found.speedup["whole"] > 1
