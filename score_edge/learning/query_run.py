"""`score-edge train query`: from a bundle and some clips to the bundle with a policy that knows the question."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from score_edge.bundle.atomic import only_writer, write_text
from score_edge.bundle.folder import Bundle, check_shapes, write_bundle
from score_edge.bundle.manifest import FileRef
from score_edge.core import Mask
from score_edge.errors import ScoreEdgeError
from score_edge.export.query_graph import export_query
from score_edge.learning.curves import plot_query
from score_edge.learning.data import Data
from score_edge.learning.decoder_weights import check_same_model, open_decoder, without_adapter
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.long_training import pick_device
from score_edge.learning.policy_checkpoint import check_run
from score_edge.learning.policy_training import Scenes
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.query_training import NORMALISING, new_query, train_query
from score_edge.learning.recipe import QueryRecipe
from score_edge.learning.saliency import SaliencyMaps, SalientClip
from score_edge.learning.training_loop import Log, hold_out
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.graphs.open_graph import Provider
from score_edge.selection.registry import knows_question

QUERY = FileRef("query.onnx")
COMMAND = "score-edge train query"
SHARES = (0.1, 0.025)
MEASURED = 8  # clips at most


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well the clips that are held out are answered from some of their tokens, by the model as it is deployed.

    Attributes:
        share: of the tokens.
        selector: what kept them.
        probability: of the answers' tokens (geometric mean of an answer, mean over the questions of the clips).
    """

    share: float
    selector: str
    probability: float


def learn_query(
    bundle: str | Path,
    folder: Path,
    recipe: QueryRecipe,
    data: Data,
    *,
    checkpoint: str | None = None,
    device: str = "auto",
    provider: Provider = "auto",
    resume: bool = False,
    threads: int | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
    on_log: Log = lambda row: None,
) -> tuple[Bundle, list[HeldOut]]:
    """Learn a policy that knows the question; write query.onnx, metrics.jsonl with its picture, and the bundle with it.

    Args:
        bundle: folder, or "reference"; such a policy that it has is replaced.
        folder: results, features and checkpoint; must not hold another run unless `resume`.
        recipe: of the regression.
        data: what to learn from, with questions.
        checkpoint: the bundle was exported from; None reads the weights of a reference bundle.
        device: cpu, cuda or auto, of the language model with gradients.
        provider: what runs the encoder, see `open_graph`.
        resume: go on from the folder's checkpoint.
        threads: CPU threads.
        on_clip: told how many clips are prepared, of how many.
        on_log: told every row of the metrics.

    Raises:
        ScoreEdgeError: bad data, a folder that is in use, a checkpoint that is not the bundle's, a language model whose
            token table cannot be read, or a broken run.
    """
    if data.videos and not data.questions:
        raise ScoreEdgeError(
            "a policy that knows the question learns from questions, and there are none",
            'name a file with --questions: JSON lines {"video", "question"}, with "answer" or without',
        )
    whole = Bundle.open(bundle)
    opened = without_adapter(whole)  # that learned to look elsewhere than the weights do
    check_run(folder, resume)
    if threads is not None:
        torch.set_num_threads(threads)
    decoder = open_decoder(opened, checkpoint, pick_device(device))
    with only_writer(folder), FrozenModel(opened, steps=data.clip_steps, provider=provider, threads=threads) as model:
        model.words(["what?"])  # refuses a token table that cannot be read, before an hour of work
        features = Features(folder / "features", model, data.cache_mb << 20)
        scenes = features.fit(data.moving(opened.manifest.vision), data.clip_steps)
        held, learned = hold_out(scenes)
        maps = SaliencyMaps(features, model, decoder)
        for done, scene in enumerate(scenes):
            features.prepare([scene])
            if done == 0:
                clip = features.read(scene)
                check_same_model(model, decoder, clip, np.ones(clip.tokens.shape[:2], np.bool_))
            maps.prepare(scene)
            on_clip(done + 1, len(scenes))
        policy = new_query([maps.read(scene) for scene in learned[:NORMALISING]], recipe)
        digest = Scenes([], scenes, f"{model.fingerprint} {decoder.fingerprint}").digest()
        train_query(folder, policy, maps, held, learned, recipe, digest, resume=resume, on_log=on_log)
        export_query(policy, folder / QUERY.file)
        clips = [maps.read(scene) for scene in held[:MEASURED]]
    write_text(folder / "recipe.json", json.dumps(dataclasses.asdict(recipe), indent=2) + "\n")
    plot_query(folder / "metrics.jsonl")
    made = with_query(whole, folder / QUERY.file, folder / "bundle", overwrite=True)
    return made, _measure(made, clips, provider, threads)


def with_query(bundle: Bundle, query: Path, folder: Path, *, overwrite: bool = False) -> Bundle:
    """Write a bundle again with a policy that knows the question; what selects by default stays.

    Args:
        bundle: opened; such a policy that it has is left out.
        query: see `export_query`.
        folder: the bundle to write.
        overwrite: replace a bundle that is there.

    Raises:
        ScoreEdgeError: it is no such policy, or is for visual tokens of another width.
    """
    graph = OnnxGraph(query)
    check_shapes(bundle.manifest, "query", graph.inputs, graph.outputs)
    old = bundle.manifest.selector.query
    manifest = dataclasses.replace(
        bundle.manifest,
        selector=dataclasses.replace(bundle.manifest.selector, query=QUERY),
        provenance=bundle.manifest.provenance.after(COMMAND),
    )
    kept = {name: path for name, path in bundle.paths.items() if old is None or name != old.file}
    return write_bundle(folder, manifest, {**kept, QUERY.file: query}, overwrite=overwrite)


def _measure(bundle: Bundle, clips: list[SalientClip], provider: Provider, threads: int | None) -> list[HeldOut]:
    """Every token, and both selectors at SHARES of them: score-query for a question at a time, as it is asked."""
    found = dict[tuple[float, str], list[float]]()
    steps, own = max(len(salient.clip.tokens) for salient in clips), bundle.manifest.selector.name
    with FrozenModel(bundle, steps=steps, provider=provider, threads=threads) as model:

        def ask(clip: PreparedClip, share: float, name: str, keep: Mask) -> None:
            (loss,) = model.losses([clip], [torch.from_numpy(keep)])
            found.setdefault((share, name), []).extend(torch.exp(-loss).tolist())

        for clip in [salient.clip for salient in clips]:
            ask(clip, 1.0, "all", np.ones(clip.tokens.shape[:2], np.bool_))
            for share in SHARES:
                for qa in clip.asked:
                    keep = model.select(clip.tokens, model.selector("score-query", qa.question), share)
                    ask(dataclasses.replace(clip, asked=[qa]), share, "score-query", keep)
                if not knows_question(own):
                    ask(clip, share, own, model.select(clip.tokens, model.selector(own), share))
    return [HeldOut(*key, sum(values) / len(values)) for key, values in found.items()]
