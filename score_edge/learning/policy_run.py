"""`score-edge train policy`: from a bundle and some clips to the same bundle with a policy learned for it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch

from score_edge.bundle.atomic import only_writer, write_text
from score_edge.bundle.folder import Bundle, check_shapes, write_bundle
from score_edge.bundle.manifest import FileRef
from score_edge.errors import ScoreEdgeError, require
from score_edge.export.policy_graph import export_policy
from score_edge.learning.curves import plot_policy
from score_edge.learning.data import Data
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.policy_checkpoint import check_run
from score_edge.learning.policy_training import Log, Scenes, train_policy
from score_edge.learning.recipe import PolicyRecipe
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.graphs.open_graph import Provider
from score_edge.runtime.language.backends import DEFAULT

POLICY = FileRef("policy.onnx")


def learn_policy(
    bundle: str | Path,
    folder: Path,
    recipe: PolicyRecipe,
    data: Data,
    *,
    backend: str = DEFAULT,
    provider: Provider = "auto",
    resume: bool = False,
    threads: int | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    on_log: Log = lambda row: None,
) -> Bundle:
    """Learn a policy for a bundle and write policy.onnx, metrics.jsonl with its picture, and the bundle that uses it.

    Under `accelerate launch` every process calls this; the first one writes.

    Args:
        bundle: folder, or "reference".
        folder: results, features and checkpoint; must not hold another run unless `resume`.
        recipe: of the reinforcement learning.
        data: what to learn from.
        backend: what runs the language model, see `open_language_model`.
        provider: what runs the encoder, see `open_graph`.
        resume: go on from the folder's checkpoint.
        threads: CPU threads per process; None lets torch and the language model choose.
        on_clip: told how many clips of how many are encoded.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: unreadable or missing input, a loss that is not a number, a folder that another run
            writes into, clips that cannot be shared evenly by the processes.
    """
    opened = Bundle.open(bundle)
    state = require("accelerate", "train").PartialState(cpu=True)
    if threads is not None:
        torch.set_num_threads(threads)
    if recipe.clips % state.num_processes:
        raise ScoreEdgeError(
            f"{recipe.clips} clips per step cannot be shared evenly by {state.num_processes} processes",
            "choose a multiple with --clips",
        )
    check_run(folder, resume)
    with (
        only_writer(folder) if state.is_main_process else contextlib.nullcontext(),
        FrozenModel(opened, steps=data.clip_steps, backend=backend, provider=provider, threads=threads) as model,
    ):
        features = Features(folder / "features", model, data.cache_mb << 20)
        scenes = _scenes(model, features, recipe, data)
        todo = [*(scenes.stills if recipe.still_steps() else ()), *scenes.moving]
        mine = todo[state.process_index :: state.num_processes]
        done: list[int] = []

        def count() -> None:
            done.append(1)
            on_clip(len(done), len(mine))

        features.prepare(mine, count)
        state.wait_for_everyone()
        policy = train_policy(folder, model, features, scenes, recipe, resume=resume, on_log=on_log)
    graph = folder / POLICY.file
    if state.is_main_process:
        export_policy(policy, graph)
        write_text(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
        plot_policy(folder / "metrics.jsonl")
        with_policy(opened, graph, folder / "bundle", overwrite=True)
    state.wait_for_everyone()
    return Bundle.open(folder / "bundle")


def with_policy(bundle: Bundle, policy: Path, folder: Path, *, overwrite: bool = False) -> Bundle:
    """Write a bundle again with another policy and `score` as its default selector.

    Args:
        bundle: opened.
        policy: see `export_policy`.
        folder: the bundle to write.
        overwrite: replace a bundle that is there.

    Raises:
        ScoreEdgeError: it is no policy, or is for visual tokens of another width.
    """
    graph = OnnxGraph(policy)
    check_shapes(bundle.manifest, "policy", graph.inputs, graph.outputs)
    old = bundle.manifest.selector
    manifest = dataclasses.replace(
        bundle.manifest,
        selector=dataclasses.replace(old, name="score", policy=POLICY),
        provenance=bundle.manifest.provenance.after("score-edge train policy"),
    )
    kept = {name: path for name, path in bundle.paths.items() if old.policy is None or name != old.policy.file}
    return write_bundle(folder, manifest, {**kept, POLICY.file: policy}, overwrite=overwrite)


def _scenes(model: FrozenModel, features: Features, recipe: PolicyRecipe, data: Data) -> Scenes:
    vision, steps = model.bundle.manifest.vision, data.clip_steps
    moving, stills = data.moving(vision), data.stills(vision)
    if recipe.still_steps() and not stills:
        raise ScoreEdgeError(
            "there are no stills for stage 1", "name a folder of images with --images, or skip it with --still-share 0"
        )
    return Scenes(features.fit(stills, steps), features.fit(moving, steps), model.fingerprint)
