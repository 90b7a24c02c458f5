"""Clips as the long stage of the reference training holds them, on the CPU or on a GPU, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from score_edge.learning.batches import Batch
from score_edge.learning.reference_model import GRID, MERGE, PATCH
from score_edge.learning.world_data import Prompts
from score_edge.reference import world
from score_edge.reference.clip_farm import Rendered

LONG_STEPS = 32
MOST_TOKENS = LONG_STEPS * GRID * GRID
SLOTS = len(world.QUESTION_TYPES)  # questions of a clip
WIDTH = 20  # tokens of a question and its answer
_ENCODED = 1024  # steps at a time
_LENGTH, _ANSWER, _KIND = range(WIDTH, WIDTH + 3)


@dataclass(frozen=True, slots=True)
class LongClip:
    """A clip as the decoder meets it; `encode` leaves it MOST_TOKENS visual tokens at most.

    Attributes:
        tokens: (n, D) float16.
        places: (n,) int16, step * GRID² + cell.
        travelled: (n, 2) float16, see `Labels`.
        acts: (n,) uint8, likewise.
        evidence: (n,) uint8, bit q is set where the token carries the answer to question q.
        asked: (SLOTS, WIDTH + 3) int16: ids of the question and its answer, how many of the question, the answer, the
            kind; no ids where there is no question.
        steps: T of the unpruned clip.
        regime: of the world.
        ranks: (selectors, budgets, n) int16 of `rank_farm.ranked`, None where nobody asked for them.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    travelled: torch.Tensor
    acts: torch.Tensor
    evidence: torch.Tensor
    asked: torch.Tensor
    steps: int
    regime: str
    ranks: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Footage:
    """A rendered clip on the device, not encoded yet.

    Attributes:
        images: (T, frames per step, SIZE, SIZE, 3) uint8.
        looks, offsets: see `Labels`; uint8 and float16.
        busy: steps in which something moves or flashes.
        clip: without tokens.
    """

    images: torch.Tensor
    looks: torch.Tensor
    offsets: torch.Tensor
    busy: list[int]
    clip: LongClip


def patchify(images: torch.Tensor) -> torch.Tensor:
    """`Preprocessing.patchify` of whole steps of the world, on the images' device.

    Args:
        images: (S, frames per step, SIZE, SIZE, 3) uint8.

    Returns:
        (S, P, C) float32.
    """
    blocks = images.view(len(images), -1, GRID, MERGE, PATCH, GRID, MERGE, PATCH, 3)
    return blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).flatten(1, 4).flatten(2).float() / 127.5 - 1


def receive(rendered: Rendered, prompts: Prompts, device: torch.device) -> Footage:
    """Copy a rendered clip to the device."""

    def put(array: object, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.as_tensor(array)
        if device.type == "cuda":
            return tensor.to(dtype).pin_memory().to(device, non_blocking=True)
        return tensor.to(dtype, copy=True)

    labels, steps = rendered.labels, rendered.wanted.steps
    asked = np.full((SLOTS, WIDTH + 3), prompts.end, np.int16)
    asked[:, _LENGTH:] = 0
    for slot, (text, answer, kind) in enumerate(rendered.asked):
        question, reply = prompts.after(text), prompts.answer(answer)
        asked[slot, : len(question) + 1] = *question, reply
        asked[slot, _LENGTH:] = len(question), reply, world.QUESTION_TYPES.index(kind)
    clip = LongClip(
        torch.empty(0),
        put(torch.arange(steps * GRID * GRID), torch.int16),
        put(labels.travelled, torch.float16).flatten(0, 1),
        put(labels.acts, torch.uint8).flatten(),
        put(rendered.evidence, torch.uint8).flatten(),
        put(asked, torch.int16),
        steps,
        rendered.wanted.regime,
    )
    busy = ((labels.acts > 0) & (labels.acts <= len(world.DIRECTIONS) + 1)).any(axis=1).nonzero()[0].tolist()
    return Footage(
        put(rendered.images, torch.uint8),
        put(labels.looks, torch.uint8),
        put(labels.offsets, torch.float16),
        busy,
        clip,
    )


@torch.no_grad()
def encode(encoder: nn.Module, footage: Sequence[Footage]) -> list[LongClip]:
    """Encode clips, some steps at a time; one longer than LONG_STEPS keeps its evidence first."""
    images = torch.cat([shown.images for shown in footage])
    tokens = torch.cat([encoder(patchify(part)).half() for part in images.split(_ENCODED)])
    clips = []
    for shown, rows in zip(footage, tokens.split([shown.clip.steps for shown in footage]), strict=True):
        clip, flat = shown.clip, rows.flatten(0, 1)
        if len(flat) > MOST_TOKENS:
            rank = torch.rand(len(flat), device=flat.device) + 0.8 * (clip.evidence > 0)
            kept = rank.topk(MOST_TOKENS).indices.sort().values
        else:
            kept = torch.arange(len(flat), device=flat.device)
        parts = (flat[kept], clip.places[kept], clip.travelled[kept], clip.acts[kept], clip.evidence[kept])
        clips.append(LongClip(*parts, clip.asked, clip.steps, clip.regime))
    return clips


def draw(
    clips: Sequence[LongClip], count: int, favour: torch.Tensor, things: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Which `count` tokens of each clip are kept, at random; see `batches.drop`.

    Args:
        clips: equally long.
        count: tokens to keep.
        favour: (B,), how much likelier some tokens are kept.
        things: (B,) bool, whether those are all that show a thing, or the evidence alone.
        generator: on the clips' device.

    Returns:
        (B, count) int64, ascending.
    """
    shown = ~torch.stack([clip.travelled[:, 0] for clip in clips]).isnan()
    evidence = torch.stack([clip.evidence for clip in clips]) > 0
    favoured = torch.where(things[:, None], shown, evidence)
    rank = torch.rand(favoured.shape, generator=generator, device=favoured.device) + favoured * favour[:, None]
    return rank.topk(count, dim=1).indices.sort(dim=1).values


def kept_by(ranks: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """Which `count` tokens of each clip a selector keeps.

    Args:
        ranks: (n,) int16 each, one selector's at this budget; see `rank_farm.ranked`.
        count: tokens to keep.

    Returns:
        (B, count) int64, ascending.
    """
    return torch.stack(list(ranks)).int().topk(count, dim=1, largest=False).indices.sort(dim=1).values


def batch_of(
    clips: Sequence[LongClip],
    embedding: nn.Embedding,
    prompts: Prompts,
    kept: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
) -> Batch:
    """Clips side by side, each with all its questions behind its kept tokens.

    Args:
        clips: of the same number of steps.
        embedding: the decoder's.
        prompts: of the model.
        kept: (B, k) int64 indices of the kept tokens; None keeps all.
        valid: (B, k) bool, False where a clip has fewer than k; those stand last.

    Returns:
        A batch whose mask is that of the text rows alone, (1 or B, 1, Q * WIDTH, L) bool with Q questions of each clip:
        what stands before them is causal.
    """
    device = clips[0].tokens.device

    def stacked(name: str) -> torch.Tensor:
        whole = torch.stack([getattr(clip, name) for clip in clips])
        if kept is None or name == "asked":
            return whole
        return (
            whole.gather(1, kept)
            if whole.ndim == 2
            else whole.gather(1, kept[..., None].expand(-1, -1, whole.shape[-1]))
        )

    tokens, places, asked = stacked("tokens").float(), stacked("places").long(), stacked("asked").long()
    rows, before, count = len(clips), len(prompts.before), tokens.shape[1]
    slots = asked.shape[1]
    start, text = before + count, slots * WIDTH
    length, answers, kinds = asked[..., _LENGTH], asked[..., _ANSWER], asked[..., _KIND]
    first = start + torch.arange(slots, device=device) * WIDTH
    ask = torch.where(length > 0, first + length - 1, -1)
    bits = (stacked("evidence")[:, None].int() >> torch.arange(slots, device=device)[:, None]) & 1
    head = embedding(torch.tensor(prompts.before, device=device)).expand(rows, -1, -1)
    embeds = torch.cat([head, tokens, embedding(asked[..., :WIDTH].flatten(1))], dim=1)
    grids = before + torch.stack([places // GRID**2, places % GRID**2 // GRID, places % GRID])
    after = before + max(clips[0].steps, GRID)
    lead = torch.arange(before, device=device).expand(3, rows, -1)
    tail = (after + torch.arange(WIDTH, device=device)).repeat(slots).expand(3, rows, -1)
    segment = torch.arange(slots, device=device).repeat_interleave(WIDTH)
    own = ((segment[:, None] == segment) & torch.ones(text, text, dtype=torch.bool, device=device).tril())[None]
    seen = torch.ones(1, start, dtype=torch.bool, device=device)
    if valid is not None:
        seen = torch.cat([seen[:, :before].expand(rows, -1), valid], dim=1)
    mask = torch.cat([seen[:, None].expand(-1, text, -1), own.expand(len(seen), -1, -1)], dim=2)[:, None]
    return Batch(
        embeds,
        torch.cat([lead, grids, tail], dim=2),
        mask,
        ask,
        answers,
        kinds,
        bits.float(),
        stacked("travelled").float(),
        stacked("acts").long(),
        slice(before, start),
    )
