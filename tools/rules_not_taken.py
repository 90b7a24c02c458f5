"""What other rules would gain: right answers on the reference world beside those with the bundle's policy.

    python tools/rules_not_taken.py [--bundle reference] [--clips 200] [--steps 32] [--retention 0.1] [--seed 3]

- `score:dither=0` ... `=1`: the policy's odds, dithered by that weight; 0 is the k most probable, as in the paper.
- `every-step`: the best token of every step is kept whatever the others score, so that no quiet stretch goes unseen.
- `half-random`: half of the tokens by `score`, the other half drawn at random from what is left.
- `oracle`: the tokens that carry the answer to the question come first, as if a policy knew the question and made no
  mistake. What stands beside them is still chosen by `score`: it is no upper bound.
"""

import argparse
from collections import defaultdict

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import Float32, Mask
from score_edge.evaluation.accuracy import ANSWER_TOKENS
from score_edge.evaluation.intervals import wilson
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline
from score_edge.selection.budget import clip_top_k, token_count
from score_edge.selection.registry import OWN_DITHER

WEIGHTS = (0, 0.25, OWN_DITHER["score"], 1)


def first(scores: Float32, before_others: Mask) -> Float32:
    """(T, N) float32 ranks of the scores, with some tokens before all others."""
    ranks = scores.ravel().argsort(kind="stable").argsort(kind="stable").reshape(scores.shape)
    return np.asarray(ranks + before_others * scores.size, np.float32)


def best_of_each_step(scores: Float32) -> Mask:
    """(T, N) bool, one token per step."""
    best = np.zeros(scores.shape, np.bool_)
    best[np.arange(len(scores)), scores.argmax(axis=1)] = True
    return best


def main() -> None:
    """Ask every question of every clip under every rule and print the shares of right answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--retention", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=world.TEST_SEED)
    chosen = parser.parse_args()
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    with Pipeline(Bundle.open(chosen.bundle), threads=1) as pipeline:
        selectors = {name: pipeline.selector(name) for name in (f"score:dither={weight:g}" for weight in WEIGHTS)}
        for index in range(chosen.clips):
            clip = world.make_clip(chosen.seed, index, chosen.steps)
            tokens = pipeline.encode(clip.frames()).tokens
            count = token_count(*tokens.shape[:2], chosen.retention)
            scored = {rule: selector.score(tokens, count) for rule, selector in selectors.items()}
            best = scored[f"score:dither={OWN_DITHER['score']:g}"]
            scored["every-step"] = first(best, best_of_each_step(best))
            chance = np.random.default_rng(index).random(best.shape, np.float32)
            scored["half-random"] = first(chance, clip_top_k(best, count // 2))
            for rule, scores in scored.items():
                pipeline.watch(tokens, clip_top_k(scores, count))
                for question in clip.questions:
                    note(right, rule, question, pipeline)
            for question in clip.questions:
                pipeline.watch(tokens, clip_top_k(first(best, question.evidence), count))
                note(right, "oracle", question, pipeline)
    for rule in (*selectors, "every-step", "half-random", "oracle"):
        answers = right[rule, "overall"]
        low, high = wilson(sum(answers), len(answers))
        kinds = " ".join(f"{kind} {np.mean(right[rule, kind]):.0%}" for kind in world.QUESTION_TYPES)
        print(f"{rule:18} {np.mean(answers):.1%} ({low:.1%}-{high:.1%}) of {len(answers)}: {kinds}")


def note(right: dict[tuple[str, str], list[bool]], rule: str, question: world.Question, pipeline: Pipeline) -> None:
    """Ask about the clip that is watched, and count the answer."""
    found = "".join(pipeline.ask(question.text, ANSWER_TOKENS)).strip().lower() == question.answer
    for kind in ("overall", question.kind):
        right[rule, kind].append(found)


if __name__ == "__main__":
    main()
