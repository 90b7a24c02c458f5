"""Learn a policy that knows the question, by reinforcement through the frozen model in torch.

It starts from where the world says the answer to a question is seen. Then, per clip, one question is drawn; what a mask
earns is how likely it makes the answer to that question alone. All clips of an update are one batch: on a GPU an update
takes some hundredths of a second.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from score_edge.export.query_graph import QueryNetwork
from score_edge.learning.batches import predict
from score_edge.learning.long_clips import LongClip, batch_of
from score_edge.learning.long_decoder import decode
from score_edge.learning.long_evaluation import gathered
from score_edge.learning.reference_model import GRID
from score_edge.learning.rewards import standardise
from score_edge.learning.rollouts import group_loss, rate_bias
from score_edge.learning.world_data import Prompts
from score_edge.selection.dither import dithered
from score_edge.selection.registry import OWN_DITHER
from score_edge.selection.residual import BACKGROUND_RATE

NORMALISING = 48  # clips whose tokens the input is normalised by


@dataclass(frozen=True, slots=True)
class QueryRecipe:
    """Every number of the run.

    Attributes:
        seconds: how long it learns from rewards; the learning rate falls with the clock.
        clips, rollouts: of an update; as in `PolicyRecipe`.
        lowest, highest: keep rates, log-uniform.
        warm_steps: of a regression, before any reward, on which tokens carry the answer to the question.
    """

    seconds: float = 45
    clips: int = 8
    rollouts: int = 16
    lowest: float = 0.008
    highest: float = 0.1
    learning_rate: float = 2e-3
    warm_steps: int = 2000
    logit_penalty: float = 1e-4
    seed: int = 0


def word_vectors(model: Any, prompts: Prompts, clips: Sequence[LongClip]) -> torch.Tensor:
    """(B, Q, D) mean word vector of every question of every clip, without those of the prompt's own text."""
    empty = prompts.ids_around()
    asked = torch.stack([clip.asked for clip in clips]).long()
    length = asked[..., -3]
    ids = asked[..., :-3]
    place = torch.arange(ids.shape[-1], device=ids.device)
    inside = (place >= empty[0]) & (place < (length - empty[1])[..., None])
    rows = model.model.language_model.embed_tokens(ids) * inside[..., None]
    return torch.as_tensor(rows.sum(dim=2) / inside.sum(dim=-1, keepdim=True).clamp(min=1)).detach()


class QueryTraining:
    """One run.

    Args:
        model: a reference model, frozen.
        prompts: its own.
        clips: unpruned, equally long, on the model's device; the first of them normalise the input.
        recipe: every number.
    """

    def __init__(self, model: Any, prompts: Prompts, clips: Sequence[LongClip], recipe: QueryRecipe) -> None:
        torch.manual_seed(recipe.seed)
        self._model, self._prompts, self._clips, self._recipe = model, prompts, clips, recipe
        self._device = clips[0].tokens.device
        self._stream = torch.Generator(self._device).manual_seed(recipe.seed)
        self._dice = torch.Generator().manual_seed(recipe.seed)
        tokens, previous, background = batched_inputs(clips[:NORMALISING])
        state = torch.cat([tokens, tokens - previous, tokens - background], dim=-1).flatten(0, 1)
        self.policy = QueryNetwork(tokens.shape[-1]).to(self._device)
        self.policy.mean.copy_(state.mean(dim=0))
        self.policy.scale.copy_(1 / state.std(dim=0).clamp(min=1e-3 * float(state.std())))
        self.policy.word_scale.copy_(1 / word_vectors(model, prompts, clips[:NORMALISING]).std())
        self._optimizer = torch.optim.Adam(self.policy.parameters(), recipe.learning_rate)

    def run(self, on_log: Callable[[dict[str, float]], None] = lambda row: None) -> QueryNetwork:
        """Learn until the time is over."""
        recipe, step = self._recipe, 0
        self._warm()
        began = time.monotonic()
        earned: list[torch.Tensor] = []
        while (passed := time.monotonic() - began) < recipe.seconds:
            for group in self._optimizer.param_groups:
                group["lr"] = recipe.learning_rate * (1 - 0.9 * passed / recipe.seconds)
            earned.append(self._update())
            step += 1
            if step % 50 == 0:
                on_log({"step": step, "probability": torch.stack(earned).mean().item()})
                earned.clear()
        return self.policy

    def _drawn(self, count: int) -> tuple[list[LongClip], torch.Tensor, torch.Tensor]:
        """Clips, a question of each (B,), and the logits (B, n) of their tokens for it."""
        numbers = torch.randint(len(self._clips), (count,), generator=self._dice).tolist()
        chosen = [self._clips[i] for i in numbers]
        asked = torch.stack([clip.asked[:, -3] for clip in chosen]) > 0
        slots = torch.multinomial(asked.float(), 1, generator=self._stream)[:, 0]
        words = word_vectors(self._model, self._prompts, chosen)[torch.arange(count, device=self._device), slots]
        return chosen, slots, self.policy.logits(*batched_inputs(chosen), words[:, None])

    def _warm(self) -> None:
        for _ in range(self._recipe.warm_steps):
            chosen, slots, logits = self._drawn(4)
            carries = torch.stack([clip.evidence for clip in chosen]).int() >> slots[:, None] & 1
            loss = functional.binary_cross_entropy_with_logits(logits, carries.float())
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()

    def _update(self) -> torch.Tensor:
        recipe = self._recipe
        chosen, slots, logits = self._drawn(recipe.clips)
        spread = recipe.highest / recipe.lowest
        rate = recipe.lowest * spread ** torch.rand(recipe.clips, 1, generator=self._stream, device=self._device)
        shifted = logits + rate_bias(logits, rate)
        keep = torch.sigmoid(shifted.detach())[:, None].expand(-1, recipe.rollouts, -1)
        masks = torch.rand(keep.shape, generator=self._stream, device=self._device) < keep
        masks[..., 0] |= ~masks.any(dim=-1)
        many = [clip for clip in chosen for _ in range(recipe.rollouts)]
        with torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda"):
            asked = slots.repeat_interleave(recipe.rollouts)
            first, answers = answered(self._model, self._prompts, many, asked, masks.flatten(0, 1))
        earned = first.softmax(dim=-1).gather(1, answers[:, None]).view(masks.shape[:2])
        loss = group_loss(shifted, masks, standardise(earned)) + recipe.logit_penalty * logits.square().mean()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self._optimizer.step()
        return earned.mean()


@torch.no_grad()
def answered(
    model: Any, prompts: Prompts, clips: Sequence[LongClip], slots: torch.Tensor, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (M, V) of the answer to one question per clip under one mask each, and the right answers (M,).

    Args:
        model: a reference model.
        prompts: its own.
        clips: M equally long ones.
        slots: (M,) which question.
        masks: (M, n) bool.
    """
    kept, valid = gathered(masks)
    alone = [
        dataclasses.replace(clip, asked=clip.asked[slot : slot + 1])
        for clip, slot in zip(clips, slots.tolist(), strict=True)
    ]
    batch = batch_of(alone, model.model.language_model.embed_tokens, prompts, kept, valid)
    first, _, answers, _ = predict(model, batch, decode(model, batch)[2])
    return first.float(), answers


@torch.no_grad()
def right_answers(
    model: Any, prompts: Prompts, clips: Sequence[LongClip], policy: QueryNetwork, count: int
) -> torch.Tensor:
    """(M,) bool: every question of every clip, each with the `count` tokens chosen for it, dithered as at run time."""
    right = []
    for clip in clips:
        slots = torch.nonzero(clip.asked[:, -3])[:, 0]
        words = word_vectors(model, prompts, [clip])[0, slots]
        odds = policy.logits(*batched_inputs([clip]), words[:, None]).view(len(slots), -1, GRID**2).cpu().numpy()
        scores = np.stack([dithered(part, 0, OWN_DITHER["score-query"]) for part in odds]).reshape(len(slots), -1)
        chosen = torch.from_numpy(scores).topk(count, dim=1).indices.to(clip.tokens.device)
        masks = torch.zeros(len(slots), len(clip.tokens), dtype=torch.bool, device=chosen.device).scatter(
            1, chosen, True
        )
        first, answers = answered(model, prompts, [clip] * len(slots), slots, masks)
        right.append(first.argmax(dim=-1) == answers)
    return torch.cat(right).cpu()


def batched_inputs(clips: Sequence[LongClip]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, n, D) float32 tokens, the tokens before them and the background, as `selection.residual` defines them."""
    tokens = torch.stack([clip.tokens for clip in clips]).float()
    steps = tokens.unflatten(1, (-1, GRID**2))
    average, before = steps[:, 0], [torch.zeros_like(steps[:, 0])]
    for step in steps.unbind(dim=1)[:-1]:
        average = average + float(BACKGROUND_RATE) * (step - average)
        before.append(average)
    previous = functional.pad(tokens, (0, 0, GRID**2, 0))[:, : tokens.shape[1]]
    return tokens, previous, torch.stack(before, dim=1).flatten(1, 2)
