"""What the decoder trains on: clips with some tokens dropped, and all their questions behind one visual prefix."""

import random
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from score_edge.export.qwen2_vl import StepEncoder
from score_edge.learning.reference_model import GRID
from score_edge.learning.world_data import Prompts, Sample, TokenisedQuestion

TRAINED_STEPS = 8
MOST_TOKENS = TRAINED_STEPS * GRID * GRID


@dataclass(frozen=True, slots=True)
class EncoderBatch:
    """A clip as the decoder meets it: at most MOST_TOKENS visual tokens.

    Attributes:
        tokens: (n, D) float16.
        positions: (n, 3) int64, (t, h, w).
        travelled: (n, 2) float32 in cells, NaN where a token shows nothing.
        acts: (n,) int64.
        evidence: (n,) float32, 1 where the token carries evidence.
        steps: T of the unpruned clip.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    travelled: torch.Tensor
    acts: torch.Tensor
    evidence: torch.Tensor
    steps: int
    questions: list[TokenisedQuestion]

    @property
    def shown(self) -> torch.Tensor:
        """(n,) bool: the tokens that show any thing at all."""
        return ~self.travelled[:, 0].isnan()


@torch.no_grad()
def look(encoder: StepEncoder, sample: Sample, generator: torch.Generator) -> EncoderBatch:
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
    questions = [question.at(chosen) for question in sample.questions]
    return EncoderBatch(
        tokens[chosen].half(),
        positions,
        sample.travelled.flatten(0, 1)[chosen],
        sample.acts.flatten()[chosen],
        evidence[chosen],
        steps,
        questions,
    )


def drop(
    seen: EncoderBatch, count: int, favoured: torch.Tensor, favour: float, generator: torch.Generator
) -> EncoderBatch:
    """Keep `count` tokens of a clip at random; from favour 1 on, favoured (n,) bool ones are kept before all else."""
    if count >= len(seen.tokens):
        return seen
    rank = torch.rand(len(seen.tokens), generator=generator) + favoured * favour
    kept = rank.topk(count).indices.sort().values
    return EncoderBatch(
        seen.tokens[kept],
        seen.positions[kept],
        seen.travelled[kept],
        seen.acts[kept],
        seen.evidence[kept],
        seen.steps,
        [question.at(kept) for question in seen.questions],
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips with equally many kept tokens, each followed by the same number of question segments.

    Attributes:
        embeds: (B, L, D); positions: (3, B, L); mask: (1, 1, L, L) bool, of `long_clips` that of the text rows alone.
        ask: (B, Q) index of the last prompt token of each question, -1 where there is none.
        answers, kinds: (B, Q) int64.
        evidence: (B, Q, n) float32, 1 where a kept token carries the answer.
        travelled: (B, n, 2) float32 and acts: (B, n) int64, as in EncoderBatch.
        visual: slice of the visual tokens in L.
    """

    embeds: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    ask: torch.Tensor
    answers: torch.Tensor
    kinds: torch.Tensor
    evidence: torch.Tensor
    travelled: torch.Tensor
    acts: torch.Tensor
    visual: slice


def collate(clips: list[EncoderBatch], embedding: nn.Embedding, prompts: Prompts, most: int) -> Batch:
    """Lay out prefix, kept tokens and question segments; a question sees the video and itself, no other question."""
    kept = len(clips[0].tokens)
    chosen = [random.sample(clip.questions, min(most, len(clip.questions))) for clip in clips]
    width = max(len(question.prompt) + 1 for questions in chosen for question in questions)
    slots = max(len(questions) for questions in chosen)
    before = len(prompts.before)
    start = before + kept
    ids = torch.full((len(clips), slots, width), prompts.end)
    ask = torch.full((len(clips), slots), -1)
    answers, kinds = torch.zeros_like(ask), torch.zeros_like(ask)
    evidence = torch.zeros(len(clips), slots, kept)
    for b, questions in enumerate(chosen):
        for q, question in enumerate(questions):
            length = len(question.prompt)
            ids[b, q, : length + 1] = torch.tensor([*question.prompt, question.answer])
            ask[b, q] = start + q * width + length - 1
            answers[b, q], kinds[b, q] = question.answer, question.kind
            evidence[b, q] = question.evidence
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
    travelled, acts = torch.stack([clip.travelled for clip in clips]), torch.stack([clip.acts for clip in clips])
    visual = slice(before, start)
    return Batch(embeds, positions, mask[None, None], ask, answers, kinds, evidence, travelled, acts, visual)


def hidden_states(model: Qwen2VLForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, ...]:
    """(B, L, D) hidden states of the decoder: behind the first layer, half-way and at the end."""
    output = model.model.language_model(
        inputs_embeds=batch.embeds,
        position_ids=batch.positions,
        attention_mask={"full_attention": batch.mask},
        use_cache=False,
        output_hidden_states=True,
    )
    layers = output.hidden_states
    return layers[1], layers[len(layers) // 2], output.last_hidden_state


def predict(model: Qwen2VLForConditionalGeneration, batch: Batch, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits (M, V) of the answer and of the end that follows it, with answer ids and kinds (M,)."""
    b, q = torch.nonzero(batch.ask >= 0, as_tuple=True)
    at = batch.ask[b, q]
    return model.lm_head(hidden[b, at]), model.lm_head(hidden[b, at + 1]), batch.answers[b, q], batch.kinds[b, q]
