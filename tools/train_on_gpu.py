"""The long stage of the reference model and a policy for it, on a GPU machine, in a given time.

    tools/train_on_gpu.sh START.safetensors FOLDER [--see 70] [--answer 250] [--few 290] [--policy 90]

Leaves in FOLDER: model.safetensors, policy.safetensors, metrics.jsonl, log.txt; the model's weights and metrics are
renewed every 45 s. `--tiny` is a dry run on any machine.
With `--adapt 400` nothing but this: for so long the decoder learns from what the shipped bundle's policies keep.
Weights to start from, and back into a bundle:

    python tools/train_on_gpu.py --start BUNDLE START.safetensors
    python tools/train_on_gpu.py --bundle FOLDER BUNDLE
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
POLICY_CLIPS = 3_000_000  # where the clips the policy learns from start
SELECTORS = (
    "score:dither=0.5:first=scored",
    "last-kept:dither=1:first=whole",
    "last-kept:dither=0:first=scored",
    "change:dither=1.5:first=scored",
)


def main() -> None:
    """Train, or convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--see", type=float, default=70, help="seconds for the encoder")
    parser.add_argument("--answer", type=float, default=250, help="seconds for the decoder, at length")
    parser.add_argument("--few", type=float, default=290, help="seconds for the decoder, from few tokens")
    parser.add_argument("--policy", type=float, default=90, help="seconds for the policy")
    parser.add_argument("--adapt", type=float, default=0, help="seconds for the decoder, from what its policies keep")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--start", dest="convert", action="store_const", const=write_start)
    parser.add_argument("--bundle", dest="convert", action="store_const", const=write_bundle)
    chosen = parser.parse_args()
    if chosen.convert:
        chosen.convert(chosen.start, chosen.folder)
    else:
        train(chosen)


def say(folder: Path, row: dict[str, Any]) -> None:
    """One line of metrics, on the screen and in the folder."""
    short = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    line = json.dumps({"at": round(time.monotonic() - BEGAN, 1), **short})
    print(line, flush=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")


def train(chosen: argparse.Namespace) -> None:
    """The model, then the policy."""
    import torch
    from safetensors.torch import load_file

    from score_edge.learning.long_recipe import LongRecipe, gpu_recipe
    from score_edge.learning.long_training import LongTraining

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(max(1, min(4, cores)))
    chosen.folder.mkdir(parents=True, exist_ok=True)

    def log(row: dict[str, Any]) -> None:
        say(chosen.folder, row)

    log({"device": torch.cuda.get_device_name() if chosen.device == "cuda" else "cpu", "cores": cores})
    if chosen.adapt:
        adapt(chosen, max(1, cores - 2), log)
        return
    recipe = gpu_recipe(chosen.see, chosen.answer, chosen.few, max(1, cores - 2))
    if chosen.tiny:
        small = {
            "see_steps": 16,
            "rows": 4000,
            "footage": 16,
            "few_clips": 24,
            "validation": 1,
            "every": 10,
            "workers": 1,
            "few_fresh": 1,
        }
        recipe = LongRecipe(chosen.see, chosen.answer, chosen.few, **small)
    training = LongTraining(chosen.folder, load_file(chosen.start), recipe, chosen.device, log)
    training.run()
    if chosen.policy:
        learn_policy(training, chosen, log)
    log({"part": "done"})


def adapt(chosen: argparse.Namespace, workers: int, log: Any) -> None:
    """The decoder alone; its weights are kept every 45 s."""
    from safetensors.torch import load_file, save_file

    from score_edge.learning.decoder_adaptation import AdaptationRecipe, DecoderAdaptation, gpu_adaptation

    recipe = gpu_adaptation(chosen.adapt, workers)
    if chosen.tiny:
        recipe = AdaptationRecipe(chosen.adapt, rows=4000, clips=8, held=10, fresh=True, workers=1, every=2)
    saved = time.monotonic()

    def on_row(row: dict[str, Any]) -> None:
        nonlocal saved
        log(row)
        if "step" in row and time.monotonic() - saved > 45:
            save_file(run.weights(), chosen.folder / "model.safetensors")
            saved = time.monotonic()

    run = DecoderAdaptation(load_file(chosen.start), "reference", recipe, chosen.device, on_row)
    save_file(run.run(), chosen.folder / "model.safetensors")
    log({"part": "done"})


def learn_policy(training: Any, chosen: argparse.Namespace, log: Any) -> None:
    """REINFORCE on clips of every regime, for a given time, then right answers by selector and budget."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from score_edge.learning.long_clips import LONG_STEPS, encode, receive
    from score_edge.learning.long_evaluation import mark
    from score_edge.learning.policy_training import Scenes, train_policy
    from score_edge.learning.recipe import PolicyRecipe
    from score_edge.learning.reference_model import GRID
    from score_edge.learning.torch_judge import TorchJudge
    from score_edge.reference import world
    from score_edge.reference.clip_farm import ClipFarm, endless
    from score_edge.reference.nuisance import REGIMES
    from score_edge.selection.budget import clip_top_k, token_count
    from score_edge.selection.registry import get_selector

    count = 4 if chosen.tiny else 1500
    wanted = endless(world.TRAIN_SEED, POLICY_CLIPS, {LONG_STEPS: 1.0}, REGIMES)
    training.model.eval()
    training.clips.clear()
    clips: list[Any] = []
    with ClipFarm(itertools.islice(wanted, count), LONG_STEPS, training.recipe.workers) as farm:
        for rendered in farm:
            clips += encode(training.encoder, [receive(rendered, training.prompts, training.device)])
    judge = TorchJudge(training.model, training.prompts, clips)
    log({"part": "policy clips", "clips": len(clips)})
    recipe = PolicyRecipe(steps=2, still_share=0)
    if chosen.tiny:
        recipe = dataclasses.replace(recipe, clips=2, rollouts=2, warm_steps=5)
    scenes = Scenes([], judge.scenes)
    with tempfile.TemporaryDirectory() as scratch:
        train_policy(Path(scratch), judge, judge, scenes, recipe)  # the first updates are slow
        began = time.monotonic()
        train_policy(Path(scratch), judge, judge, scenes, dataclasses.replace(recipe, steps=12, warm_steps=0))
        rate = 12 / (time.monotonic() - began)
    updates = max(2, int(rate * chosen.policy))
    log({"part": "policy", "updates": updates, "per second": rate})
    rows: list[dict[str, float]] = []

    def on_log(row: dict[str, float]) -> None:
        rows.append(row)
        if len(rows) % 100 == 0:
            means = {name: float(np.mean([row[name] for row in rows[-100:]])) for name in ("quality", "held", "spread")}
            log({"part": "policy", "step": row["step"], **means})

    recipe = dataclasses.replace(recipe, steps=updates)
    policy = train_policy(chosen.folder / "policy", judge, judge, scenes, recipe, on_log=on_log)
    state = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    save_file(state, chosen.folder / "policy.safetensors")
    log({"part": "policy learned"})

    def keep_probability(tokens: Any, previous: Any) -> Any:
        with torch.no_grad():
            found = policy(*(torch.from_numpy(np.ascontiguousarray(part)) for part in (tokens, previous)))
        return found.numpy()

    per_regime = 1 if chosen.tiny else 20
    shown = training.validation[: per_regime * len(REGIMES)]
    held = [clip for part in range(0, len(shown), 32) for clip in encode(training.encoder, shown[part : part + 32])]
    tokens = [clip.tokens.view(clip.steps, GRID**2, -1).float().cpu().numpy() for clip in held]
    log({"part": "marks of unpruned", **mark(training.model, training.prompts, held).row()})
    for name in SELECTORS:  # score, then what comes from it, then the rivals: time may end
        for retention in (0.05, 0.025, 0.1, 0.0125):
            selector = get_selector(name, policy=keep_probability)
            number = token_count(LONG_STEPS, GRID**2, retention)
            keeps = [clip_top_k(selector.score(part, number), number).ravel() for part in tokens]
            masks = [torch.from_numpy(keep).to(training.device) for keep in keeps]
            marks = mark(training.model, training.prompts, held, masks, rows=128)
            log({"part": f"marks of {name} at {retention}", **marks.row()})


def write_start(bundle: Path, weights: Path) -> None:
    """The weights of a bundle as a file to train from."""
    from safetensors.torch import save_file

    from score_edge.bundle.folder import Bundle
    from score_edge.learning.reference_bundle import read_reference_bundle

    state = read_reference_bundle(Bundle.open(f"{bundle}"))
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)


def write_bundle(folder: Path, bundle: Path) -> None:
    """What training left as a bundle, with the policy if there is one."""
    from safetensors.torch import load_file

    from score_edge.export.policy_graph import PolicyNetwork, export_policy
    from score_edge.learning.policy_run import with_policy
    from score_edge.learning.reference_bundle import write_reference_bundle

    with tempfile.TemporaryDirectory() as scratch:
        if not (folder / "policy.safetensors").exists():
            write_reference_bundle(folder / "model.safetensors", bundle, overwrite=True)
            return
        state = load_file(folder / "policy.safetensors")
        policy = PolicyNetwork(state["mean"].numel() // 2, len(state["layers.0.bias"]))
        policy.load_state_dict(state)
        export_policy(policy, Path(scratch) / "policy.onnx")
        without = write_reference_bundle(folder / "model.safetensors", Path(scratch) / "bundle")
        with_policy(without, Path(scratch) / "policy.onnx", bundle, overwrite=True)


if __name__ == "__main__":
    sys.exit(main())
