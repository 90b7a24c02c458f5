"""The reference model's decoder goes on learning, from what its bundle's own encoder and policies give it.

Everything before the decoder is as the runtime has it (`runtime_clips.py`): tokens of whole and incremental encoding,
chosen by both policies, by rules, or at random. Encoder and policies stay as they are.
"""

import dataclasses
import itertools
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_edge.learning.batches import predict
from score_edge.learning.long_clips import (
    SLOTS,
    WIDTH,
    LongClip,
    batch_of,
    draw,
    kept_by,
    receive,
)
from score_edge.learning.long_decoder import decode
from score_edge.learning.rank_farm import RULES
from score_edge.learning.reference_model import GRID, build_model, reading_weights
from score_edge.learning.runtime_clips import LEARNED, RuntimeClip, RuntimeClips
from score_edge.learning.world_data import Prompts
from score_edge.reference import world
from score_edge.reference.clip_farm import endless
from score_edge.reference.nuisance import REGIMES

ADAPTATION_CLIPS = 5_000_000  # where its clips start


@dataclass(frozen=True, slots=True)
class AdaptationRecipe:
    """Every number of the run; the defaults are for two CPU cores.

    Attributes:
        seconds: how long it learns; the learning rate follows the clock.
        rate: highest learning rate.
        rows: tokens per batch, about.
        most: clips per batch at most.
        lengths: encoder steps of a clip, and the share of clips and of batches.
        clips: that are there before it begins.
        held: most clips held of each length; then new ones take the place of others.
        fresh: whether clips are still made while it learns.
        workers: processes that make them.
        shares: budgets, each equally often.
        least: tokens that a clip keeps at least.
        kinds: how often a batch is whole, or keeps what ``score``, ``score-query``, a rule or chance chooses.
        incremental: how often a clip's tokens are those of incremental encoding.
        every: updates between two rows of metrics.
        seed: of everything random but which clips are ready when.
    """

    seconds: float = 480
    rate: float = 2e-4
    rows: int = 10_000
    most: int = 48
    lengths: dict[int, float] = field(default_factory=lambda: {8: 0.1, 16: 0.15, 32: 0.6, 64: 0.15})
    clips: int = 1800
    held: int = 1800
    fresh: bool = False
    workers: int = 2
    shares: tuple[float, ...] = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.3)
    least: int = 24
    kinds: dict[str, float] = field(
        default_factory=lambda: {"whole": 0.2, "score": 0.25, "query": 0.2, "rule": 0.2, "drawn": 0.15}
    )
    incremental: float = 0.3
    every: int = 50
    seed: int = 0


def gpu_adaptation(seconds: float, workers: int) -> AdaptationRecipe:
    """For a data-centre GPU and a dozen cores or more."""
    return AdaptationRecipe(
        seconds, rate=4e-4, rows=90_000, most=512, clips=1200, held=20_000, fresh=True, workers=workers, every=200
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """A clip of one encoding; `clip` with its ranks, `queried` (questions, n) int16 as `RuntimeClip` has it."""

    clip: LongClip
    queried: torch.Tensor


class DecoderAdaptation:
    """One run.

    Args:
        start: weights of the reference model.
        bundle: whose encoder and policies make the clips.
        recipe: every number.
        device: "cpu" or "cuda".
        log: told every row of metrics.
    """

    def __init__(
        self,
        start: dict[str, torch.Tensor],
        bundle: str,
        recipe: AdaptationRecipe,
        device: str,
        log: Callable[[dict[str, Any]], None],
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.bundle, self.device, self.log = recipe, bundle, torch.device(device), log
        self.prompts = Prompts()
        self.model: Any = build_model()
        with reading_weights("what this run started from"):
            self.model.load_state_dict(start)
        self.model.to(self.device)
        self._start = self._now()
        self.dice = random.Random(recipe.seed)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.held: dict[int, list[tuple[_Held, _Held]]] = {steps: [] for steps in recipe.lengths}
        torch.backends.cuda.enable_cudnn_sdp(False)  # it would plan anew for every number of kept tokens

    def run(self) -> dict[str, torch.Tensor]:
        """Make clips, learn, and return `weights`."""
        recipe = self.recipe
        wanted = endless(world.TRAIN_SEED, ADAPTATION_CLIPS, recipe.lengths, REGIMES)
        words = self.model.model.language_model.embed_tokens.weight.detach().cpu().float().numpy()
        began = time.monotonic()
        made = wanted if recipe.fresh else itertools.islice(wanted, recipe.clips)
        with RuntimeClips(self.bundle, made, recipe.shares, recipe.least, words, recipe.workers) as clips:
            for count, clip in enumerate(itertools.islice(clips, recipe.clips), start=1):
                self._hold(clip)
                if count % 200 == 0:
                    self.log({"clips": count, "seconds": time.monotonic() - began})
            self._learn(clips)
        return self.weights()

    def weights(self) -> dict[str, torch.Tensor]:
        """Half way from those it began with to those of now, on the CPU.

        Half way answers better than either (Wortsman et al. 2022, arXiv 2109.01903).
        """
        now = self._now()
        return {name: torch.lerp(start, now[name], 0.5) for name, start in self._start.items()}

    def _now(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

    def _hold(self, made: RuntimeClip) -> None:
        rendered = receive(made.rendered, self.prompts, self.device).clip

        def put(array: Any) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device)

        def of(encoding: int) -> _Held:
            tokens, ranks = put(made.tokens[encoding]).flatten(0, 1), put(made.ranks[encoding])
            return _Held(dataclasses.replace(rendered, tokens=tokens, ranks=ranks), put(made.queried[encoding]))

        both, held = (of(0), of(1)), self.held[rendered.steps]
        if len(held) < self.recipe.held:
            held.append(both)
        else:
            held[self.dice.randrange(len(held))] = both

    def _learn(self, clips: RuntimeClips) -> None:
        recipe = self.recipe
        trained = (self.model.model.language_model, self.model.lm_head)
        parameters: list[nn.Parameter] = [parameter for module in trained for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, recipe.rate, betas=(0.9, 0.98), weight_decay=0.02)
        scaler = torch.amp.GradScaler(enabled=self.device.type == "cuda")
        right = defaultdict[str, list[torch.Tensor]](list)
        began, step = time.monotonic(), 0
        while (share := (time.monotonic() - began) / recipe.seconds) < 1:
            if recipe.fresh:
                for clip in clips.finished():
                    self._hold(clip)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * min(1.0, share / 0.05) * (0.5 + 0.5 * math.cos(math.pi * share))
            kind = self.dice.choices([*recipe.kinds], [*recipe.kinds.values()])[0]
            loss, answered = self._loss(kind)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
            right[kind].append(answered)
            step += 1
            if step % recipe.every == 0:
                shares = {name: torch.stack(values).mean().item() for name, values in right.items()}
                self.log({"step": step, "share": share, "clips": self._clips(), **shares})
                right.clear()
        self.log({"step": step, "share": 1.0, "clips": self._clips()})

    def _clips(self) -> int:
        return sum(len(held) for held in self.held.values())

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")

    def _loss(self, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a batch of one kind at a budget, and its share of right answers."""
        recipe, dice = self.recipe, self.dice
        lengths = [steps for steps, held in self.held.items() if held]
        steps = dice.choices(lengths, [recipe.lengths[length] for length in lengths])[0]
        budget, count = dice.randrange(len(recipe.shares)), steps * GRID**2
        if kind != "whole":
            count = max(recipe.least, int(count * recipe.shares[budget]))
        text = WIDTH if kind == "query" else SLOTS * WIDTH
        rows = max(2, min(recipe.most, recipe.rows // (count + text)))
        chosen = [both[dice.random() < recipe.incremental] for both in dice.choices(self.held[steps], k=rows)]
        clips, kept = [held.clip for held in chosen], None
        if kind == "query":
            slots = [dice.randrange(len(held.queried)) for held in chosen]
            kept = kept_by([held.queried[slot] for held, slot in zip(chosen, slots, strict=True)], count)
            clips = [
                dataclasses.replace(clip, asked=clip.asked[slot : slot + 1])
                for clip, slot in zip(clips, slots, strict=True)
            ]
        elif kind in ("score", "rule"):
            learned = kind == "score"
            selector = dice.randrange(len(LEARNED)) + len(RULES) if learned else dice.randrange(len(RULES))
            kept = kept_by([ranks[selector, budget] for ranks in _ranks(clips)], count)
        elif kind == "drawn":
            # Evidence tells on a drifter (of what rests, only what is asked for is evidence): so things are favoured.
            favour = torch.rand(rows, generator=self.generator, device=self.device) * 1.5
            things = torch.rand(rows, generator=self.generator, device=self.device) < 0.5
            kept = draw(clips, count, favour, things, self.generator)
        with self._cast():
            batch = batch_of(clips, self.model.model.language_model.embed_tokens, self.prompts, kept)
            first, second, answers, _ = predict(self.model, batch, decode(self.model, batch)[2])
        ends = torch.full_like(answers, self.prompts.end)
        loss = functional.cross_entropy(first.float(), answers) + 0.1 * functional.cross_entropy(second.float(), ends)
        return loss, (first.argmax(-1) == answers).float().mean().detach()


def _ranks(clips: list[LongClip]) -> Iterator[torch.Tensor]:
    for clip in clips:
        assert clip.ranks is not None
        yield clip.ranks
