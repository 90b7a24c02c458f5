"""Train the reference model: first to see, then to answer, always under random token dropping.

1. See: the vision encoder alone learns, per visual token, the shape and colour of what the token shows and where in
   each frame its centre is, and how far it moves between the frames.
2. Answer: the encoder is frozen; the decoder learns the questions of each clip, all of them in one pass behind the same
   visual prefix. Each time a clip is shown, another random subset of its tokens is kept, from 10 % to all, so that
   the model accepts any retention. Half-way through the decoder, early enough for the question to use it, auxiliary
   heads ask every visual token what acts there and every question where its evidence is.

Contexts never exceed TRAINED_STEPS unpruned steps; longer clips are seen only pruned to that many tokens.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import Qwen2VLForConditionalGeneration

from score_edge.bundle.atomic import atomic_file, make_folder
from score_edge.export.qwen2_vl import StepEncoder
from score_edge.learning.batches import (
    MOST_TOKENS,
    TRAINED_STEPS,
    Batch,
    EncoderBatch,
    collate,
    drop,
    hidden_states,
    look,
    predict,
)
from score_edge.learning.curves import plot_metrics
from score_edge.learning.metrics import add_row, keep_rows
from score_edge.learning.reference_model import build_model, reading_weights, step_encoder
from score_edge.learning.seeing import SIZES, seeing_losses
from score_edge.learning.world_data import Prompts, Sample, WorldSamples
from score_edge.reference import world
from score_edge.reference.labels import ACTS

SHORT_STEPS = 3
ACT_WEIGHTS = torch.tensor([3.0 if act == "drifter" else 1.0 for act in ACTS])  # rare, and the hardest to see
ANSWER_CLIPS = 1_000_000  # where the clips of stage 2 start


@dataclass(frozen=True)
class ReferenceRecipe:
    """Every number of the training run."""

    see_steps: int = 3200
    see_clips: int = 16  # of SHORT_STEPS steps: many different things, nearly all of them acting
    see_rate: float = 3e-3
    place: float = 4.0  # weight of the distance in cells, in stage 1
    motion: float = 3.0  # weight of the squared motion within a step, in typical motions, in stage 1
    resting: float = 0.4  # weight of the motion of what rests, in stage 1
    background: float = 0.1  # weight of a token that shows nothing, in stage 1
    answer_steps: int = 5150
    answer_clips: int = 16
    fresh_clips: int = 6  # of each batch; the rest are replayed with other tokens dropped
    easy: float = 0.17  # share of stage 2 in which few tokens are kept and evidence is favoured
    answer_rate: float = 1.5e-3
    questions: int = 6  # of a clip per pass
    auxiliary: float = 0.5  # weight of the dense losses in stage 2
    way: float = 40.0  # weight, among these, of the squared error of how far a thing has come, in cells
    whole: float = 0.4  # share of batches that drop nothing
    threads: int = 2
    seed: int = 0


def samples(start: int, lengths: dict[int, float]) -> DataLoader[Sample]:
    """Training clips, rendered by one worker process."""
    dataset = WorldSamples(world.TRAIN_SEED, start, lengths)
    return DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=16)


def learn_to_see(encoder: StepEncoder, recipe: ReferenceRecipe, log: Callable[[dict[str, float]], None]) -> None:
    """Stage 1, then scale the encoder's output to unit variance."""
    last = encoder.visual.merger.mlp[2]
    heads = nn.ModuleList(nn.Linear(last.out_features, size) for size in SIZES)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], recipe.see_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.see_rate, recipe.see_steps, pct_start=0.1)
    stream = iter(samples(0, {SHORT_STEPS: 1.0}))
    tokens = torch.empty(0)
    began = time.monotonic()
    for step in range(recipe.see_steps):
        batch = [next(stream) for _ in range(recipe.see_clips)]
        tokens = encoder(torch.cat([sample.patches for sample in batch]))
        looks = torch.cat([sample.looks for sample in batch])
        offsets = torch.cat([sample.offsets for sample in batch])
        told = [head(tokens) for head in heads]
        named, off, miss = seeing_losses(told, looks, offsets, background=recipe.background, resting=recipe.resting)
        optimizer.zero_grad(set_to_none=True)
        (named + recipe.place * off + recipe.motion * miss).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            shown = looks[..., 0] > 0
            right = [
                (logits.argmax(-1) == looks[..., i])[shown].float().mean().item() for i, logits in enumerate(told[:2])
            ]
            log(
                {
                    "stage": 1,
                    "step": step,
                    "loss": named.item(),
                    "shape": right[0],
                    "color": right[1],
                    "off_by_px": off.item() * world.CELL,
                    "motion_missed": miss.item(),
                    "seconds": time.monotonic() - began,
                }
            )
    with torch.no_grad():
        scale = tokens.std()
        last.weight /= scale
        last.bias /= scale


class Pointer(nn.Module):
    """Where a question looks: half-way through the decoder its last token must find the tokens that carry the answer.

    It is thrown away after training; what stays is that questions and evidence can be matched, which the attention
    above then uses. Without it the decoder stays at guessing for thousands of steps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, 64), nn.Linear(width, 64)

    def loss(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Cross-entropy between attention of every question over the kept tokens and its evidence, evenly shared."""
        b, q = torch.nonzero((batch.ask >= 0) & (batch.evidence.sum(-1) > 0), as_tuple=True)
        target = batch.evidence[b, q]
        found = torch.einsum("md,mnd->mn", self.query(hidden[b, batch.ask[b, q]]), self.key(hidden[:, batch.visual])[b])
        return functional.cross_entropy(found / 8, target / target.sum(-1, keepdim=True))


def learn_to_answer(
    model: Qwen2VLForConditionalGeneration,
    encoder: StepEncoder,
    recipe: ReferenceRecipe,
    log: Callable[[dict[str, float]], None],
    checkpoint: Callable[[], None],
) -> None:
    """Stage 2."""
    prompts = Prompts()
    decoder = model.model.language_model
    acts = nn.Linear(decoder.config.hidden_size, len(ACTS))
    pointer = Pointer(decoder.config.hidden_size)
    travelled = nn.Linear(decoder.config.hidden_size, 2)
    trained = (decoder, model.lm_head, acts, pointer, travelled)
    parameters = [parameter for module in trained for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.answer_rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.answer_rate, recipe.answer_steps, pct_start=0.05)
    lengths = {TRAINED_STEPS: 0.8, 2 * TRAINED_STEPS: 0.1, 4 * TRAINED_STEPS: 0.07, 8 * TRAINED_STEPS: 0.03}
    stream = iter(samples(ANSWER_CLIPS, lengths))
    generator = torch.Generator().manual_seed(recipe.seed)
    memory: list[EncoderBatch] = []
    seen_right, seen_all = torch.zeros(2, len(world.QUESTION_TYPES)), torch.zeros(2, len(world.QUESTION_TYPES))
    began = time.monotonic()
    for step in range(recipe.answer_steps):
        for _ in range(recipe.fresh_clips if memory else recipe.answer_clips):
            memory.append(look(encoder, next(stream), generator))
        newest = memory[-recipe.fresh_clips :]
        easy = step < recipe.easy * recipe.answer_steps
        whole = not easy and random.random() < recipe.whole
        count = MOST_TOKENS if whole else int(MOST_TOKENS * 0.1 * (3 if easy else 8) ** random.random())
        chosen = newest + random.choices(memory, k=recipe.answer_clips - len(newest))
        # Evidence tells on a drifter: of what rests, only what is asked for is evidence. So things are favoured, too.
        kept = [
            drop(c, count, c.evidence, 1.0, generator)
            if easy
            else drop(c, count, random.choice((c.evidence, c.shown)), random.uniform(0, 1.5), generator)
            for c in chosen
        ]
        batch = collate(kept, decoder.embed_tokens, prompts, recipe.questions)
        early, halfway, hidden = hidden_states(model, batch)
        first, second, answers, kinds = predict(model, batch, hidden)
        loss = functional.cross_entropy(first, answers)
        loss_end = functional.cross_entropy(second, torch.full_like(answers, prompts.end))
        loss_act = functional.cross_entropy(
            acts(halfway[:, batch.visual]).flatten(0, 1), batch.acts.flatten(), weight=ACT_WEIGHTS
        )
        optimizer.zero_grad(set_to_none=True)
        loss_point = pointer.loss(halfway, batch)
        shown = ~batch.travelled[..., 0].isnan()
        loss_way = (travelled(early[:, batch.visual]) - batch.travelled)[shown].square().mean()
        dense = loss_act + loss_point + recipe.way * loss_way
        (loss + 0.1 * loss_end + recipe.auxiliary * dense).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        right = (first.argmax(-1) == answers).float()
        seen_right[int(whole)].index_add_(0, kinds, right)
        seen_all[int(whole)].index_add_(0, kinds, torch.ones_like(right))
        if step % 50 == 49:
            share = seen_right / seen_all.clamp(min=1)
            kinds_shown = {
                f"{name}{suffix}": right
                for suffix, rights in (("", share[0]), ("_whole", share[1]))
                for name, right in zip(world.QUESTION_TYPES, rights.tolist(), strict=True)
            }
            log(
                {
                    "stage": 2,
                    "step": step,
                    "loss": loss.item(),
                    "act": loss_act.item(),
                    "point": loss_point.item(),
                    "way": loss_way.item(),
                    "pruned": (seen_right[0].sum() / seen_all[0].sum()).item(),
                    "whole": (seen_right[1].sum() / seen_all[1].sum()).item(),
                    "seconds": time.monotonic() - began,
                    **kinds_shown,
                }
            )
            seen_right.zero_()
            seen_all.zero_()
        if step % 250 == 249:
            checkpoint()


def train_reference(
    folder: Path, recipe: ReferenceRecipe, *, on_log: Callable[[dict[str, float]], None] = lambda row: None
) -> Path:
    """Both stages; writes model.safetensors, metrics.jsonl and its picture. A finished stage 1 is not done again.

    Args:
        folder: created if need be.
        recipe: every number of the run.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: the folder cannot be made.
    """
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    make_folder(folder)
    model = build_model()
    encoder = step_encoder(model)
    weights, seeing = folder / "model.safetensors", folder / "encoder.safetensors"
    metrics = folder / "metrics.jsonl"
    keep_rows(metrics, lambda row: row["stage"] == 1 and seeing.exists())

    def log(row: dict[str, float]) -> None:
        add_row(metrics, row)
        on_log(row)

    if seeing.exists():
        with reading_weights(seeing):
            model.model.visual.load_state_dict(load_file(seeing))
    else:
        learn_to_see(encoder, recipe, log)
        _save(model.model.visual, seeing)
    encoder.requires_grad_(False)
    learn_to_answer(model, encoder, recipe, log, lambda: _save(model, weights))
    _save(model, weights)
    plot_metrics(metrics)
    return weights


def _save(module: nn.Module, path: Path) -> None:
    """Replace a weight file in one go: a run that is killed leaves the last one whole."""
    with atomic_file(path) as unfinished:
        save_file(module.state_dict(), unfinished)
