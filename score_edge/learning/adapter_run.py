"""`score-edge train adapter`: from a bundle and some clips to the bundle with an adapter for its language model."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch

from score_edge.bundle.atomic import only_writer, write_text
from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef
from score_edge.export.gguf_adapter import write_adapter
from score_edge.export.peft_adapter import write_peft
from score_edge.learning.adapter import Adapter
from score_edge.learning.adapter_training import Lesson, train_adapter
from score_edge.learning.answer_targets import Teacher
from score_edge.learning.curves import plot_adapter
from score_edge.learning.data import Data
from score_edge.learning.decoder_weights import check_same_model, open_decoder, without_adapter
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.long_training import pick_device
from score_edge.learning.policy_checkpoint import check_run
from score_edge.learning.policy_training import Scenes
from score_edge.learning.recipe import RATE_BY_WIDTH, AdapterRecipe
from score_edge.learning.training_loop import Log, hold_out
from score_edge.runtime.graphs.open_graph import Provider

ADAPTER = FileRef("adapter.gguf")
COMMAND = "score-edge train adapter"


def learn_adapter(
    bundle: str | Path,
    folder: Path,
    recipe: AdapterRecipe,
    data: Data,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    provider: Provider = "auto",
    resume: bool = False,
    threads: int | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    on_log: Log = lambda row: None,
) -> Bundle:
    """Learn an adapter for a bundle; write adapter.gguf, metrics.jsonl with its picture, and the bundle that uses it.

    With a checkpoint there is a folder peft, too, to merge it elsewhere: see `write_peft`.

    Args:
        bundle: folder, or "reference"; an adapter that it has is replaced.
        folder: results, features and checkpoint; must not hold another run unless `resume`.
        recipe: of the distillation.
        data: what to learn from.
        checkpoint: the bundle was exported from; None reads the weights of a reference bundle.
        device: cpu, cuda or auto, of the decoder.
        provider: what runs the encoder, see `open_graph`.
        resume: go on from the folder's checkpoint.
        threads: CPU threads.
        on_clip: told how many clips are prepared, of how many.
        on_log: told every row of the metrics.

    Raises:
        ScoreEdgeError: bad data, a folder that is in use, a checkpoint that is not the bundle's, or a broken run.
    """
    opened = without_adapter(Bundle.open(bundle))
    check_run(folder, resume)
    if threads is not None:
        torch.set_num_threads(threads)
    decoder = open_decoder(opened, checkpoint, pick_device(device))
    if recipe.learning_rate is None:
        recipe = dataclasses.replace(recipe, learning_rate=RATE_BY_WIDTH / decoder.config.hidden_size)
    adapter = Adapter(decoder.decoder, recipe.rank, recipe.seed)
    with only_writer(folder), FrozenModel(opened, steps=data.clip_steps, provider=provider, threads=threads) as model:
        features = Features(folder / "features", model, data.cache_mb << 20)
        scenes = features.fit(data.moving(opened.manifest.vision), data.clip_steps)
        held, learned = hold_out(scenes)
        teacher, selector = Teacher(features, model, decoder, adapter), model.selector(recipe.selector)
        for done, scene in enumerate(scenes):
            features.prepare([scene])
            if done == 0:
                clip = features.read(scene)
                keep = model.select(clip.tokens, selector, opened.manifest.selector.retention)
                check_same_model(model, decoder, clip, keep)
            teacher.prepare(scene)
            on_clip(done + 1, len(scenes))
        digest = Scenes([], scenes, f"{model.fingerprint} {decoder.fingerprint}").digest()
        lesson = Lesson(model, decoder, adapter, features, teacher, selector)
        train_adapter(folder, lesson, held, learned, recipe, digest, resume=resume, on_log=on_log)
    path = write_adapter(decoder.config, adapter.matrices(), folder / ADAPTER.file, alpha=adapter.alpha)
    if checkpoint is not None:
        write_peft(adapter.matrices(), folder / "peft", alpha=adapter.alpha, decoder=decoder.name, base=checkpoint)
    write_text(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    plot_adapter(folder / "metrics.jsonl")
    return with_adapter(opened, path, folder / "bundle", overwrite=True)


def with_adapter(bundle: Bundle, adapter: Path, folder: Path, *, overwrite: bool = False) -> Bundle:
    """Write a bundle again with an adapter beside its language model.

    Args:
        bundle: opened; an adapter that it has is left out.
        adapter: see `write_adapter`.
        folder: the bundle to write.
        overwrite: replace a bundle that is there.
    """
    plain = without_adapter(bundle)
    manifest = dataclasses.replace(
        plain.manifest,
        language=dataclasses.replace(plain.manifest.language, adapter=ADAPTER),
        provenance=plain.manifest.provenance.after(COMMAND),
    )
    return write_bundle(folder, manifest, {**plain.paths, ADAPTER.file: adapter}, overwrite=overwrite)
