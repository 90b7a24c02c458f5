"""Our stream beside the newest steps and nothing else (SimpleStream), on the reference world; docs/results.md.

    python tools/newest_steps.py [--bundle reference] [--clips 100] [--steps 32] [--newest 4] [--seed 21] [--about ...]
    python tools/newest_steps.py --selector score-query --retention 0.025     # chosen when the question comes

Every clip is a stream of its own, remembered both ways. The questions are put one step after an event has ended and at
the end of the clip, the same to both; differences are paired. Ours keeps newest / steps of the tokens, so that at the
end both hold equally many, or as many as --retention says.
"""

import argparse
import dataclasses
import json
import statistics
from collections import defaultdict

from score_edge.evaluation.remembering import MemoryAnswers, MemoryPlan, compare_memories, difference
from score_edge.reference.moments import ABOUT


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--newest", type=int, default=4)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--about", help=f"comma-separated, of: {', '.join(ABOUT)}")
    parser.add_argument("--selector", help="of ours; default: the bundle's")
    parser.add_argument("--retention", type=float, help="of ours; default: newest / steps")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    named = chosen.about.split(",") if chosen.about else ABOUT
    if unknown := [each for each in named if each not in ABOUT]:
        parser.error(f"nothing is asked about {unknown[0]!r}; known: {', '.join(ABOUT)}")
    about = tuple(each for each in ABOUT if each in named)
    retention = chosen.retention or chosen.newest / chosen.steps
    plan = MemoryPlan(
        chosen.clips, chosen.steps, chosen.newest, retention, chosen.selector, seed=chosen.seed, about=about
    )
    asked = compare_memories(chosen.bundle, plan)
    if not any(each.question.step == chosen.steps for each in asked):
        raise SystemExit("nothing can be asked at the end of these clips: take more or longer ones")
    groups: dict[tuple[str, str], list[MemoryAnswers]] = defaultdict(list)
    for each in asked:
        for kind in ("all", each.question.kind):
            groups[each.question.about, kind].append(each)
    rows = {key: difference(group) for key, group in sorted(groups.items())}
    last = [each for each in asked if each.question.step == chosen.steps]
    held = [statistics.mean(each.tokens[arm] for each in last) for arm in (0, 1)]
    first = [1e3 * statistics.median(each.first_s[arm] for each in last) for arm in (0, 1)]
    if chosen.json:
        table = [{"about": about, "kind": kind, **dataclasses.asdict(row)} for (about, kind), row in rows.items()]
        print(json.dumps({"rows": table, "tokens_at_the_end": held, "first_word_ms": first}))
        return
    print(f"tokens held at the end: {held[0]:.0f} and {held[1]:.0f}; first word: {first[0]:.2f} and {first[1]:.2f} ms")
    for (about, kind), row in rows.items():
        print(
            f"{about:12} {kind:9} {row.asked:6} asked: ours {row.ours:6.1%}, newest {row.newest:6.1%}, "
            f"difference {100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        )


if __name__ == "__main__":
    main()
