"""What rules that the product does not have would gain: right answers on the reference world beside the bundle's own.

    python tools/rules_not_taken.py [--bundle reference] [--clips 200] [--steps 32] [--retention 0.1]

- `spread`: the best token of every step is kept whatever the others score, so that no quiet stretch goes unseen.
- `told`: the tokens that carry the answer to the question come first, as if a policy knew the question and made no
  mistake. No selector conditioned on the question can do better.
"""

import argparse
from collections import defaultdict

import numpy as np

from score_edge.budget import clip_top_k, token_count
from score_edge.bundle import Bundle
from score_edge.core import Float32, Mask
from score_edge.evaluation import ANSWER_TOKENS, wilson
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline


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
    chosen = parser.parse_args()
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    with Pipeline(Bundle.open(chosen.bundle), threads=1) as pipeline:
        selector = pipeline.selector()
        for index in range(chosen.clips):
            clip = world.make_clip(world.TEST_SEED, index, chosen.steps)
            tokens = pipeline.encode(clip.frames()).tokens
            count = token_count(*tokens.shape[:2], chosen.retention)
            scores = selector.score(tokens, count)
            for rule, raised in ((selector.name, scores), ("spread", first(scores, best_of_each_step(scores)))):
                pipeline.watch(tokens, clip_top_k(raised, count))
                for question in clip.questions:
                    note(right, rule, question, pipeline)
            for question in clip.questions:
                pipeline.watch(tokens, clip_top_k(first(scores, question.evidence), count))
                note(right, "told", question, pipeline)
    for rule in (selector.name, "spread", "told"):
        answers = right[rule, "overall"]
        low, high = wilson(sum(answers), len(answers))
        kinds = " ".join(f"{kind} {np.mean(right[rule, kind]):.0%}" for kind in world.QUESTION_TYPES)
        print(f"{rule:10} {np.mean(answers):.1%} ({low:.1%}-{high:.1%}) of {len(answers)}: {kinds}")


def note(right: dict[tuple[str, str], list[bool]], rule: str, question: world.Question, pipeline: Pipeline) -> None:
    """Ask about the clip that is watched, and count the answer."""
    found = "".join(pipeline.ask(question.text, ANSWER_TOKENS)).strip().lower() == question.answer
    for kind in ("overall", question.kind):
        right[rule, kind].append(found)


if __name__ == "__main__":
    main()
