"""How far the video of a stream may stand behind its prompt before answers suffer: why a stream re-bases its positions.

    python tools/far_from_prompt.py [--bundle reference] [--clips 30] [--steps 16] [--retention 0.25]

The prompt stays at position 0 and every kept token's t moves on, as if that many steps had come and gone before the
clip; what is kept, and all else, is the same.
"""

import argparse
import dataclasses

import numpy as np

from score_edge.bundle.folder import Bundle
from score_edge.core import KeptTokens
from score_edge.evaluation.accuracy import ANSWER_TOKENS
from score_edge.reference import world
from score_edge.runtime.pipeline import Pipeline

AWAY = (0, 16, 64, 128, 256, 512, 1024, 20000)


def main() -> None:
    """Print the share of right answers per distance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", default="reference")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--retention", type=float, default=0.25)
    chosen = parser.parse_args()
    right: dict[int, list[bool]] = {away: [] for away in AWAY}
    with Pipeline(Bundle.open(chosen.bundle), threads=1) as pipeline:
        sequence, layout = pipeline.sequence, pipeline.layout
        for index in range(chosen.clips):
            clip = world.make_clip(world.TEST_SEED, index, chosen.steps)
            tokens = pipeline.encode(clip.frames()).tokens
            keep = pipeline.select(tokens, pipeline.selector(), chosen.retention)
            kept = KeptTokens.gather(tokens, keep, layout.grid)
            for away, answers in right.items():
                moved = kept.positions + np.array([away, 0, 0], kept.positions.dtype)
                prompt = layout.clip(dataclasses.replace(kept, positions=moved, steps=kept.steps + away))
                sequence.clear()
                sequence.append(*prompt.segments)
                video = sequence.mark()
                for question in clip.questions:
                    sequence.rollback(video)
                    sequence.append(layout.question(prompt.tail, question.text))
                    answer = "".join(sequence.generate(ANSWER_TOKENS))
                    answers.append(answer.strip().lower() == question.answer)
    for away, answers in right.items():
        print(f"{away:6} steps: {np.mean(answers):6.1%} of {len(answers)}")


if __name__ == "__main__":
    main()
