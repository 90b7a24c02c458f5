"""Train the reference model: first to see, then to answer, always under random token dropping.

1. See: the vision tower alone learns, per visual token, the shape and colour of what the token shows and where in
   each frame its centre is.
2. Answer: the tower is frozen; the decoder learns the questions of each clip, all of them in one pass behind the same
   visual prefix. Each time a clip is shown, another random subset of its tokens is kept, from 10 % to all, so that
   the model accepts any retention. Half-way through the decoder an auxiliary head asks every visual token what acts
   there, early enough for the question to use it.

Contexts never exceed TRAINED_STEPS unpruned steps; longer clips are seen only pruned to that many tokens.
"""

import json
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

from score_edge.export.qwen2_vl import StepEncoder
from score_edge.learning.reference_model import GRID, build_model, step_encoder
from score_edge.learning.world_data import ROLES, Prompts, Sample, WorldSamples
from score_edge.reference import world

TRAINED_STEPS = 8
SHORT_STEPS = 3
MOST_TOKENS = TRAINED_STEPS * GRID * GRID


@dataclass(frozen=True)
class Recipe:
    """Every number of the training run."""

    see_steps: int = 900
    see_clips: int = 20  # of SHORT_STEPS steps: many different things, nearly all of them acting
    see_rate: float = 3e-3
    place: float = 4.0  # weight of the distance in cells, in stage 1
    background: float = 0.1  # weight of a token that shows nothing, in stage 1
    answer_steps: int = 2600
    answer_clips: int = 32
    fresh_clips: int = 6  # of each batch; the rest is replayed with other tokens dropped
    easy: float = 0.3  # share of stage 2 in which few tokens are kept and evidence is favoured
    memory_clips: int = 6000
    answer_rate: float = 2e-3
    questions: int = 6  # of a clip per pass
    auxiliary: float = 0.5  # weight of the dense loss in stage 2
    whole: float = 0.25  # share of batches that drop nothing
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A clip as the decoder meets it: at most MOST_TOKENS visual tokens.

    Attributes:
        tokens: (n, D) float16.
        positions: (n, 3) int64, (t, h, w).
        roles: (n,) int64.
        evidence: (n,) float32, 1 where the token carries evidence.
        steps: T of the unpruned clip.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    roles: torch.Tensor
    evidence: torch.Tensor
    steps: int
    questions: list[tuple[list[int], int, int]]


def samples(start: int, lengths: dict[int, float]) -> DataLoader[Sample]:
    """Training clips, rendered by one worker process."""
    dataset = WorldSamples(world.TRAIN_SEED, start, lengths)
    return DataLoader(dataset, batch_size=None, num_workers=1, prefetch_factor=16)


def learn_to_see(encoder: StepEncoder, recipe: Recipe, log: Callable[[dict[str, float]], None]) -> None:
    """Stage 1, then scale the tower's output to unit variance."""
    last = encoder.visual.merger.mlp[2]
    width = last.out_features
    heads = nn.ModuleList(
        nn.Linear(width, size) for size in (len(world.SHAPES) + 1, len(world.COLORS) + 1, 2 * world.FRAMES_PER_STEP)
    )
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], recipe.see_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.see_rate, recipe.see_steps, pct_start=0.1)
    stream = iter(samples(0, {SHORT_STEPS: 1.0}))
    tokens = torch.empty(0)
    began = time.monotonic()
    for step in range(recipe.see_steps):
        batch = [next(stream) for _ in range(recipe.see_clips)]
        tokens = encoder(torch.cat([sample.patches for sample in batch]))
        looks = torch.cat([sample.looks for sample in batch])
        shown = looks[..., 0] > 0
        shape, color, place = (head(tokens) for head in heads)
        weight = torch.where(shown, 1.0, recipe.background).flatten()
        losses = [
            (functional.cross_entropy(logits.flatten(0, 1), looks[..., i].flatten(), reduction="none") * weight).sum()
            / weight.sum()
            for i, logits in enumerate((shape, color))
        ]
        off = (place - torch.cat([sample.offsets for sample in batch]))[shown].abs().mean()
        optimizer.zero_grad(set_to_none=True)
        (losses[0] + losses[1] + recipe.place * off).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            right = [
                (logits.argmax(-1) == looks[..., i])[shown].float().mean().item()
                for i, logits in enumerate((shape, color))
            ]
            log(
                {
                    "stage": 1,
                    "step": step,
                    "loss": torch.stack(losses).sum().item(),
                    "shape": right[0],
                    "color": right[1],
                    "off_by_px": off.item() * world.CELL,
                    "seconds": time.monotonic() - began,
                }
            )
    with torch.no_grad():
        scale = tokens.std()
        last.weight /= scale
        last.bias /= scale


@torch.no_grad()
def look(encoder: StepEncoder, sample: Sample, generator: torch.Generator) -> Seen:
    """Encode a clip; a long one keeps its evidence first and a random rest, MOST_TOKENS in all."""
    tokens = encoder(sample.patches).flatten(0, 1)
    steps = len(sample.patches)
    evidence = sample.evidence.flatten().float()
    chosen = torch.arange(len(tokens))
    if len(tokens) > MOST_TOKENS:
        rank = torch.rand(len(tokens), generator=generator) + evidence * 0.8
        chosen = rank.topk(MOST_TOKENS).indices.sort().values
    cell = chosen % (GRID * GRID)
    positions = torch.stack([chosen // (GRID * GRID), cell // GRID, cell % GRID], dim=1)
    return Seen(
        tokens[chosen].half(), positions, sample.roles.flatten()[chosen], evidence[chosen], steps, sample.questions
    )


def drop(seen: Seen, count: int, favour: float, generator: torch.Generator) -> Seen:
    """Keep `count` tokens of a clip at random; from favour 1 on, evidence is kept before all else."""
    if count >= len(seen.tokens):
        return seen
    rank = torch.rand(len(seen.tokens), generator=generator) + seen.evidence * favour
    kept = rank.topk(count).indices.sort().values
    return Seen(
        seen.tokens[kept], seen.positions[kept], seen.roles[kept], seen.evidence[kept], seen.steps, seen.questions
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips with equally many kept tokens, each followed by the same number of question segments.

    Attributes:
        embeds: (B, L, D); positions: (3, B, L); mask: (1, 1, L, L) bool.
        ask: (B, Q) index of the last prompt token of each question, -1 where there is none.
        answers, kinds: (B, Q) int64.
        visual: slice of the visual tokens in L.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    ask: torch.Tensor
    answers: torch.Tensor
    kinds: torch.Tensor
    roles: torch.Tensor
    visual: slice


def collate(clips: list[Seen], embedding: nn.Embedding, prompts: Prompts, most: int) -> Batch:
    """Lay out prefix, kept tokens and question segments; a question sees the video and itself, no other question."""
    kept = len(clips[0].tokens)
    chosen = [random.sample(clip.questions, min(most, len(clip.questions))) for clip in clips]
    width = max(len(ids) + 1 for questions in chosen for ids, _, _ in questions)
    slots = max(len(questions) for questions in chosen)
    before = len(prompts.before)
    start = before + kept
    ids = torch.full((len(clips), slots, width), prompts.end)
    ask = torch.full((len(clips), slots), -1)
    answers, kinds = torch.zeros_like(ask), torch.zeros_like(ask)
    for b, questions in enumerate(chosen):
        for q, (prompt, answer, kind) in enumerate(questions):
            ids[b, q, : len(prompt) + 1] = torch.tensor([*prompt, answer])
            ask[b, q] = start + q * width + len(prompt) - 1
            answers[b, q], kinds[b, q] = answer, kind
    head = embedding(torch.tensor(prompts.before)).expand(len(clips), -1, -1)
    video = torch.stack([clip.tokens for clip in clips]).float()
    embeds = torch.cat([head, video, embedding(ids.flatten(1))], dim=1)
    grids = torch.stack([clip.positions for clip in clips]).permute(2, 0, 1) + before
    after = before + torch.tensor([max(clip.steps, GRID) for clip in clips])
    text = (after[:, None] + torch.arange(width).repeat(slots)).expand(3, -1, -1)
    positions = torch.cat([torch.arange(before).expand(3, len(clips), -1), grids, text], dim=2)
    segment = torch.cat([torch.zeros(start), torch.arange(1, slots + 1).repeat_interleave(width)])
    mask = (segment[None, :] == 0) | (segment[None, :] == segment[:, None])
    mask &= torch.ones_like(mask).tril()
    roles = torch.stack([clip.roles for clip in clips])
    return Batch(embeds, positions, mask[None, None], ask, answers, kinds, roles, slice(before, start))


def hidden_states(model: Qwen2VLForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, D) hidden states of the decoder: half-way and at the end."""
    output = model.model.language_model(
        inputs_embeds=batch.embeds,
        position_ids=batch.positions,
        attention_mask={"full_attention": batch.mask},
        use_cache=False,
        output_hidden_states=True,
    )
    return output.hidden_states[len(output.hidden_states) // 2], output.last_hidden_state


def predict(model: Qwen2VLForConditionalGeneration, batch: Batch, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits (M, V) of the answer and of the end that follows it, with answer ids and kinds (M,)."""
    b, q = torch.nonzero(batch.ask >= 0, as_tuple=True)
    at = batch.ask[b, q]
    return model.lm_head(hidden[b, at]), model.lm_head(hidden[b, at + 1]), batch.answers[b, q], batch.kinds[b, q]


def learn_to_answer(
    model: Qwen2VLForConditionalGeneration,
    encoder: StepEncoder,
    recipe: Recipe,
    log: Callable[[dict[str, float]], None],
    checkpoint: Callable[[], None],
) -> None:
    """Stage 2."""
    prompts = Prompts()
    decoder = model.model.language_model
    roles = nn.Linear(decoder.config.hidden_size, len(ROLES))
    parameters = [*decoder.parameters(), *model.lm_head.parameters(), *roles.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.answer_rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.answer_rate, recipe.answer_steps, pct_start=0.05)
    lengths = {TRAINED_STEPS: 0.8, 2 * TRAINED_STEPS: 0.1, 4 * TRAINED_STEPS: 0.07, 8 * TRAINED_STEPS: 0.03}
    stream = iter(samples(1_000_000, lengths))
    generator = torch.Generator().manual_seed(recipe.seed)
    memory: list[Seen] = []
    seen_right, seen_all = torch.zeros(2, len(world.QUESTION_TYPES)), torch.zeros(2, len(world.QUESTION_TYPES))
    began = time.monotonic()
    for step in range(recipe.answer_steps):
        for _ in range(recipe.fresh_clips if memory else recipe.answer_clips):
            fresh = look(encoder, next(stream), generator)
            if len(memory) < recipe.memory_clips:
                memory.append(fresh)
            else:
                memory[random.randrange(len(memory))] = fresh
        newest = memory[-recipe.fresh_clips :]
        easy = step < recipe.easy * recipe.answer_steps
        whole = not easy and random.random() < recipe.whole
        count = MOST_TOKENS if whole else int(MOST_TOKENS * 0.1 * (3 if easy else 8) ** random.random())
        chosen = newest + random.choices(memory, k=recipe.answer_clips - len(newest))
        batch = collate(
            [drop(c, count, 1.0 if easy else random.uniform(0, 1.5), generator) for c in chosen],
            decoder.embed_tokens,
            prompts,
            recipe.questions,
        )
        halfway, hidden = hidden_states(model, batch)
        first, second, answers, kinds = predict(model, batch, hidden)
        loss = functional.cross_entropy(first, answers)
        loss_end = functional.cross_entropy(second, torch.full_like(answers, prompts.end))
        loss_role = functional.cross_entropy(roles(halfway[:, batch.visual]).flatten(0, 1), batch.roles.flatten())
        optimizer.zero_grad(set_to_none=True)
        (loss + 0.1 * loss_end + recipe.auxiliary * loss_role).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        right = (first.argmax(-1) == answers).float()
        seen_right[int(whole)].index_add_(0, kinds, right)
        seen_all[int(whole)].index_add_(0, kinds, torch.ones_like(right))
        if step % 50 == 49:
            share = seen_right / seen_all.clamp(min=1)
            kinds_whole = dict(zip(world.QUESTION_TYPES, share[1].tolist(), strict=True))
            log(
                {
                    "stage": 2,
                    "step": step,
                    "loss": loss.item(),
                    "role": loss_role.item(),
                    "pruned": (seen_right[0].sum() / seen_all[0].sum()).item(),
                    "whole": (seen_right[1].sum() / seen_all[1].sum()).item(),
                    "seconds": time.monotonic() - began,
                    **kinds_whole,
                }
            )
            seen_right.zero_()
            seen_all.zero_()
        if step % 250 == 249:
            checkpoint()


def train_reference(
    folder: Path, recipe: Recipe, *, on_log: Callable[[dict[str, float]], None] = lambda row: None
) -> Path:
    """Both stages; writes model.safetensors and metrics.jsonl into `folder`. A finished stage 1 is not done again.

    Args:
        folder: created if need be.
        recipe: every number of the run.
        on_log: told what is written to metrics.jsonl.
    """
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    folder.mkdir(parents=True, exist_ok=True)
    model = build_model()
    encoder = step_encoder(model)
    weights, seeing = folder / "model.safetensors", folder / "encoder.safetensors"
    with (folder / "metrics.jsonl").open("a") as metrics:

        def log(row: dict[str, float]) -> None:
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            on_log(row)

        if seeing.exists():
            model.model.visual.load_state_dict(load_file(seeing))
        else:
            learn_to_see(encoder, recipe, log)
            save_file(model.model.visual.state_dict(), seeing)
        encoder.requires_grad_(False)
        learn_to_answer(model, encoder, recipe, log, lambda: save_file(model.state_dict(), weights))
    save_file(model.state_dict(), weights)
    return weights
