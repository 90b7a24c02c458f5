"""Let the reference model's decoder learn from what its bundle's policies keep, and write the bundle with it.

    python tools/adapt_decoder.py reference build/adapted [--clips 1800] [--seconds 480] [--threads 2]

Encoder and policies stay as they are. Needs no GPU; on one: tools/train_on_gpu.sh START.safetensors FOLDER --adapt 400.
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
    from safetensors.torch import save_file

    from score_edge.learning.decoder_adaptation import AdaptationRecipe, DecoderAdaptation
    from score_edge.learning.reference_bundle import read_reference_bundle, write_reference_bundle

    torch.set_num_threads(chosen.threads)
    bundle = Bundle.open(chosen.bundle)
    if bundle.policy_path is None or bundle.query_path is None:
        raise SystemExit(f"{chosen.bundle} lacks a policy: score-edge train policy, score-edge train query")
    recipe = AdaptationRecipe(chosen.seconds, clips=chosen.clips, held=chosen.clips, workers=chosen.threads)
    start = read_reference_bundle(bundle)
    run = DecoderAdaptation(start, chosen.bundle, recipe, "cpu", lambda row: print(row, flush=True))
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "model.safetensors"
        save_file(run.run(), weights)
        adapted = write_reference_bundle(weights, Path(scratch) / "bundle")
        files = {**bundle.paths, "llm.gguf": adapted.paths["llm.gguf"]}
        write_bundle(chosen.folder, bundle.manifest, files, overwrite=True)


if __name__ == "__main__":
    main()
