"""Every number of the long stage of the reference training."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LongRecipe:
    """Every number of the long stage; see `gpu_recipe` for a GPU's.

    Attributes:
        see_seconds, answer_seconds, few_seconds: how long each part learns, 0 leaves it out; learning rates follow the
            clock.
        see_rate, answer_rate, few_rate: highest learning rates.
        see_steps: encoder steps per batch of the first part.
        rows: tokens per batch of the other parts, about.
        lengths: encoder steps of a clip, and the share of clips and of batches.
        whole: share of batches that drop nothing, in the second part.
        least: smallest share of tokens kept there.
        few_whole: share of batches that drop nothing, in the third part.
        few_shares: shares of tokens kept there, each equally often.
        few_clips: clips held at least when the third part begins.
        fresh, few_fresh: jobs of `clip_farm.CLIPS_PER_JOB` new clips that a step of the second and of the third part
            takes at most: what learns waits meanwhile.
        footage: most clips held as images, in the first part.
        held: most encoded clips held per length; then new ones take the place of others.
        workers: processes that render.
        rankers: processes that say what rules keep, for the third part.
        validation: clips per regime at each evaluation.
        every: seconds between evaluations and checkpoints.
    """

    see_seconds: float = 1800
    answer_seconds: float = 9000
    few_seconds: float = 2700
    see_rate: float = 1e-3
    answer_rate: float = 1e-3
    few_rate: float = 4e-4
    see_steps: int = 64
    rows: int = 12_000
    lengths: dict[int, float] = field(default_factory=lambda: {8: 0.1, 16: 0.15, 32: 0.65, 64: 0.1})
    whole: float = 0.5
    least: float = 0.025
    few_whole: float = 0.125
    few_shares: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.3)
    few_clips: int = 4800
    fresh: int = 1
    few_fresh: int = 0
    footage: int = 400
    held: int = 4000
    workers: int = 1
    rankers: int = 1
    validation: int = 8
    every: float = 600
    place: float = 4.0  # these weights as in `ReferenceRecipe`
    motion: float = 3.0
    resting: float = 0.4
    background: float = 0.1
    auxiliary: float = 0.5
    way: float = 40.0
    seed: int = 0


def gpu_recipe(see_seconds: float, answer_seconds: float, few_seconds: float, workers: int) -> LongRecipe:
    """For a data-centre GPU of 80 GB and a dozen cores or more."""
    return LongRecipe(
        see_seconds,
        answer_seconds,
        few_seconds,
        see_steps=768,
        rows=90_000,
        fresh=3,
        lengths={8: 0.05, 16: 0.1, 32: 0.75, 64: 0.1},
        few_rate=5e-4,
        few_whole=0.25,
        few_clips=1600,
        few_fresh=2,
        footage=10_000,
        held=30_000,
        workers=max(1, workers - 3),
        rankers=3,
        validation=48,
        every=45,
    )
