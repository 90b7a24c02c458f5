"""Right answers of several bundles on the same questions of the reference world, paired; each with its own selector.

python tools/compare_bundles.py --arm old score --arm build/adapter/bundle score --clips 30 --seed 104
"""

import argparse

from score_edge.evaluation.accuracy import EvaluationPlan, QuestionResult, ask_everything
from score_edge.evaluation.intervals import over_clips
from score_edge.reference.nuisance import read_regimes


def main() -> None:
    """Ask every arm everything; compare each with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", nargs=2, action="append", metavar=("BUNDLE", "SELECTOR"), required=True)
    parser.add_argument("--retention", default="0.1,0.05,0.025")
    parser.add_argument("--world", default="all")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--clips", type=int, default=30, help="under each regime")
    parser.add_argument("--seed", type=int, required=True)
    chosen = parser.parse_args()
    shares = tuple(map(float, chosen.retention.split(",")))
    found: list[list[QuestionResult]] = []
    for bundle, selector in chosen.arm:
        plan = EvaluationPlan(
            (selector,), shares, (chosen.steps,), chosen.clips, chosen.seed, worlds=read_regimes(chosen.world)
        )
        found.append(ask_everything(bundle, plan))
    for share in (1.0, *shares):
        asked = [[result for result in results if result.retention == share] for results in found]
        print(f"at {share:.4g}, {len(asked[0])} questions")
        for (bundle, selector), results in zip(chosen.arm, asked, strict=True):
            gained = [float(ours.right) - float(base.right) for ours, base in zip(results, asked[0], strict=True)]
            right = sum(result.right for result in results) / len(results)
            low, high = over_clips(results, gained, -1.0)
            difference = f"{100 * sum(gained) / len(gained):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            print(f"  {100 * right:.1f} %  {difference if any(gained) else '':22} {bundle} {selector}", flush=True)


if __name__ == "__main__":
    main()
