"""Learn the policy that knows the question, for a bundle of the reference model, and write the bundle with it.

    python tools/learn_query.py reference build/with-query [--clips 1800] [--seconds 1200] [--threads 2]

Needs no GPU: 1,800 clips of 32 steps are made in some minutes on two cores, the regression takes 1 or 2, the rest is
reinforcement. Prints right answers on clips it never saw, by budget, before it writes.
"""

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

from score_edge.bundle.folder import Bundle
from score_edge.reference import world
from score_edge.reference.clip_farm import ClipFarm, endless
from score_edge.reference.nuisance import REGIMES

FIRST, HELD_OUT = 3_000_000, 4_000_000  # clips of the training split
SHOWN = 90


def main() -> None:
    """Render, learn, mark, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1800)
    parser.add_argument("--seconds", type=float, default=1200, help="of reinforcement")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()

    import torch

    from score_edge.export.query_graph import export_query
    from score_edge.learning.long_clips import LONG_STEPS, encode, receive
    from score_edge.learning.policy_run import with_policy
    from score_edge.learning.query_training import QueryRecipe, QueryTraining, right_answers
    from score_edge.learning.reference_bundle import read_reference_bundle
    from score_edge.learning.reference_model import build_model, step_encoder
    from score_edge.learning.world_data import Prompts

    torch.set_num_threads(chosen.threads)
    bundle = Bundle.open(chosen.bundle)
    known = bundle.manifest.selector.policy
    if known is None:
        raise SystemExit(f"{chosen.bundle} has no policy: learn one first, score-edge train policy")
    model = build_model().eval()
    model.load_state_dict(read_reference_bundle(bundle))
    prompts, encoder = Prompts(), step_encoder(model)

    def clips(start: int, count: int) -> list[Any]:
        wanted = endless(world.TRAIN_SEED, start, {LONG_STEPS: 1.0}, REGIMES)
        with ClipFarm(itertools.islice(wanted, count), LONG_STEPS, 1) as farm:
            return [encode(encoder, [receive(one, prompts, torch.device("cpu"))])[0] for one in farm]

    run = QueryTraining(model, prompts, clips(FIRST, chosen.clips), QueryRecipe(chosen.seconds))
    policy = run.run(lambda row: print(row, flush=True))
    held = clips(HELD_OUT, SHOWN)
    for retention in (0.0125, 0.025, 0.05, 0.1):
        right = right_answers(model, prompts, held, policy, round(retention * len(held[0].tokens)))
        print(f"{retention:.2%} of the tokens: {right.float().mean():.1%} of {len(right)} questions")
    with tempfile.TemporaryDirectory() as scratch:
        query = Path(scratch) / "query.onnx"
        export_query(policy, query)
        with_policy(bundle, bundle.paths[known.file], chosen.folder, query=query, overwrite=True)


if __name__ == "__main__":
    main()
