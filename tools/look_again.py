"""What `ask --look-again` is worth on the reference world, its thresholds chosen on validation clips.

    python tools/look_again.py [--bundle reference] [--clips 100] [--steps 32] [--seed 11]

Every question is asked at 2.5, 5, 10, 20, 40 and 100 % of the tokens; a chain such as 10 > 40 > 100 % goes on while the
answer's probability is below a threshold, and pays for every look. Beside it stands one look of as many tokens, between
those asked. Clips take turns through the regimes of the world.
"""

import argparse

from score_edge.bundle.folder import Bundle
from score_edge.evaluation.intervals import wilson
from score_edge.evaluation.looking_again import Looks, ask_at_every_budget, chosen_threshold
from score_edge.reference import world
from score_edge.reference.nuisance import REGIMES
from score_edge.runtime.pipeline import Pipeline

RETENTIONS = (0.025, 0.05, 0.1, 0.2, 0.4, 1.0)
CHAINS = ((0.025, 0.1, 0.4, 1.0), (0.05, 0.2, 1.0), (0.1, 0.4, 1.0), (0.1, 1.0))
THRESHOLDS = (*(0.3 + 0.05 * i for i in range(14)), 0.97, 0.99)
MEANS = (0.05, 0.1, 0.2, 0.3)


def main() -> None:
    """Ask, choose and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--selector", default="score:dither=0.5:first=scored")
    chosen = parser.parse_args()
    if chosen.seed == world.VALIDATION_SEED:
        parser.error("thresholds are chosen on the clips of this seed: take another")
    with Pipeline(Bundle.open(chosen.bundle)) as pipeline:

        def ask(seed: int) -> Looks:
            clips = [world.make_clip(seed, i, chosen.steps, REGIMES[i % len(REGIMES)]) for i in range(chosen.clips)]
            return ask_at_every_budget(pipeline, pipeline.selector(chosen.selector), RETENTIONS, clips)

        validation, test = ask(world.VALIDATION_SEED), ask(chosen.seed)
    asked = len(test.right)
    print(f"{asked} questions; the share of tokens read is a mean, in brackets the 95 % interval")
    for retention, share in test.fixed():
        print(f"fixed {retention:7.1%}: {share:.1%} {interval(share, asked)}")
    for chain in CHAINS:
        for most in MEANS:
            sure = chosen_threshold(validation, chain, most, THRESHOLDS)
            read, share = test.looking(chain, sure)
            steps = " > ".join(f"{part:.3g}" for part in chain)
            ahead, (least, most_ahead) = test.above_fixed(chain, sure)
            print(
                f"{steps}, sure from {sure:.2f} on: {share:.1%} at {read:.1%}, "
                f"{100 * ahead:+.1f} points ({100 * least:+.1f} to {100 * most_ahead:+.1f}) beside as many in one look"
            )


def interval(share: float, asked: int) -> str:
    """For print."""
    low, high = wilson(round(share * asked), asked)
    return f"({low:.1%}-{high:.1%})"


if __name__ == "__main__":
    main()
