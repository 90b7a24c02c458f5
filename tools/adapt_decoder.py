"""Let the reference model's decoder learn from what its bundle's policy keeps, and write the bundle with it.

    python tools/adapt_decoder.py reference build/adapted [--clips 1800] [--seconds 480] [--threads 2]

Of the batches an eighth is whole, else in two of five the policy keeps the tokens, in three of ten a rule does, and in
three of ten they are drawn at random. Encoder and policies stay as they are. Needs no GPU.
"""

import argparse
import tempfile
from pathlib import Path

from score_edge.bundle.folder import Bundle, write_bundle


def main() -> None:
    """Render, learn, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1800)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()

    import torch

    from score_edge.learning.long_clips import LONG_STEPS
    from score_edge.learning.long_recipe import LongRecipe
    from score_edge.learning.long_training import LongTraining
    from score_edge.learning.reference_bundle import read_reference_bundle, write_reference_bundle

    torch.set_num_threads(chosen.threads)
    bundle = Bundle.open(chosen.bundle)
    if bundle.policy_path is None:
        raise SystemExit(f"{chosen.bundle} has no policy: learn one first, score-edge train policy")
    recipe = LongRecipe(
        see_seconds=0,
        answer_seconds=0,
        few_seconds=chosen.seconds,
        few_rate=2e-4,
        few_learned=0.4,
        few_clips=chosen.clips,
        rows=10_000,
        lengths={LONG_STEPS: 1.0},
        every=120,
    )
    with tempfile.TemporaryDirectory() as scratch:
        start = read_reference_bundle(bundle)
        training = LongTraining(Path(scratch), start, recipe, "cpu", lambda row: print(row, flush=True), chosen.bundle)
        adapted = write_reference_bundle(training.run(), Path(scratch) / "bundle")
        files = {**bundle.paths, "llm.gguf": adapted.paths["llm.gguf"]}
        write_bundle(chosen.folder, bundle.manifest, files, overwrite=True)


if __name__ == "__main__":
    main()
