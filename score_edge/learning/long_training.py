"""The long stage of the reference training: from weights that answer short clips to ones that answer 32 unpruned steps.

Under every regime of the world, on the CPU or on a GPU, for a given time:

1. See again. The encoder goes on with the losses of stage 1; afterwards its output is turned by the rotation that
   brings it nearest to what the decoder knows.
2. Answer at length. The encoder is frozen; the decoder sees clips of 8 to 64 steps, half the batches whole, the others
   with a random share of their tokens, with the losses of stage 2.
3. Answer from few tokens: 1.25 to 30 % of them, at random or as rules keep them, some of the batches whole. On the CPU
   clips are rendered first, then the decoder has the whole machine.

On a GPU matrix products are in float16 (as llama.cpp keeps keys), the weights and every evaluation in float32.
"""

import copy
import dataclasses
import itertools
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from score_edge.bundle.atomic import make_folder
from score_edge.errors import ScoreEdgeError
from score_edge.learning.batches import predict
from score_edge.learning.long_checkpoint import Checkpoint
from score_edge.learning.long_clips import (
    LONG_STEPS,
    SLOTS,
    WIDTH,
    Footage,
    LongClip,
    batch_of,
    draw,
    encode,
    kept_by,
    receive,
)
from score_edge.learning.long_decoder import decode
from score_edge.learning.long_evaluation import Marks, mark, mark_seeing
from score_edge.learning.long_recipe import LongRecipe, gpu_recipe
from score_edge.learning.long_seeing import pick_steps, seeing_loss, turn_back
from score_edge.learning.metrics import add_row, keep_rows
from score_edge.learning.rank_farm import RULES, RankFarm
from score_edge.learning.reference_model import build_model, reading_weights, step_encoder
from score_edge.learning.reference_training import ACT_WEIGHTS, Pointer
from score_edge.learning.seeing import SIZES
from score_edge.learning.world_data import Prompts
from score_edge.reference import world
from score_edge.reference.clip_farm import CLIPS_PER_JOB, ClipFarm, Wanted, endless
from score_edge.reference.labels import ACTS
from score_edge.reference.nuisance import REGIMES
from score_edge.runtime.threads import usable_cpus

LONG_CLIPS = 2_000_000  # where the clips of this stage start
Log = Callable[[dict[str, Any]], None]
Learned = tuple[bool, dict[str, torch.Tensor], torch.Tensor]
"""Whether a batch was whole, its losses, and its share of right answers."""
FEWEST = 24  # tokens that a clip keeps at least


class LongTraining:
    """One run.

    Args:
        folder: gets model.safetensors and, while it runs, a checkpoint to go on from.
        start: weights of the reference model.
        recipe: every number.
        device: "cpu" or "cuda".
        log: told every row of metrics.
    """

    def __init__(
        self,
        folder: Path,
        start: dict[str, torch.Tensor],
        recipe: LongRecipe,
        device: str,
        log: Log,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.log = recipe, torch.device(device), log
        self.prompts = Prompts()
        self.model: Any = build_model()
        with reading_weights("what this run started from"):
            self.model.load_state_dict(start)
        self.encoder = step_encoder(self.model)
        self.model.to(self.device)
        self.encoder.to(self.device)
        self.dice = random.Random(recipe.seed)
        self.generator = torch.Generator(self.device).manual_seed(recipe.seed)
        self.scaler = torch.amp.GradScaler(enabled=self.device.type == "cuda")
        torch.backends.cuda.enable_cudnn_sdp(False)  # it would plan anew for every number of kept tokens
        self.known = copy.deepcopy(self.encoder)  # what the decoder knows, before a checkpoint takes its place
        self.checkpoint = Checkpoint(folder, self.model)
        self.footage: list[Footage] = []
        self.clips: dict[int, list[LongClip]] = defaultdict(list)
        self.validation: list[Footage] = []
        self.ranks = RankFarm[LongClip](recipe.rankers)

    def run(self) -> Path:
        """All parts; one that a checkpoint says is done is not done again."""
        recipe = self.recipe
        began = time.monotonic()
        longest = max(LONG_STEPS, *recipe.lengths)
        with self.ranks, ClipFarm(self._wanted(), longest, recipe.workers) as farm:
            self.validation = self._first(farm, recipe.validation * len(REGIMES))
            self.footage = self._first(farm, min(recipe.footage, 16 * recipe.workers))
            self.checkpoint.clips += len(self.footage)
            self.log({"part": "start", "clips": len(self.footage), "seconds": time.monotonic() - began})
            if self.checkpoint.part == "see" and recipe.see_seconds:
                self.see_again(farm)
            self.encoder.requires_grad_(False)
            for start in range(0, len(self.footage), 64):
                self._hold(self.footage[start : start + 64])
            self.footage.clear()
            self._keep_ranked(wait=True)
            if self.checkpoint.part != "few":
                self.answer_at_length(farm)
            if recipe.few_seconds:
                self.answer_from_few(farm)
        return self.checkpoint.finish()

    def _first(self, farm: ClipFarm, count: int) -> list[Footage]:
        return [receive(rendered, self.prompts, self.device) for rendered in itertools.islice(farm, count)]

    def _wanted(self) -> Iterator[Wanted]:
        for index in range(self.recipe.validation):
            for regime in REGIMES:
                yield Wanted(world.VALIDATION_SEED, index, LONG_STEPS, regime)
        start = LONG_CLIPS + self.checkpoint.clips
        yield from endless(world.TRAIN_SEED, start, self.recipe.lengths, REGIMES)

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")

    def _rate(self, optimizer: torch.optim.Optimizer, highest: float, share: float) -> None:
        rate = highest * min(1.0, share / 0.05) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))
        for group in optimizer.param_groups:
            group["lr"] = rate

    def _step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter]) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.scaler.step(optimizer)
        self.scaler.update()

    def see_again(self, farm: ClipFarm) -> None:
        """Part 1."""
        recipe, width = self.recipe, self.model.config.text_config.hidden_size
        heads = nn.ModuleList(nn.Linear(width, size) for size in SIZES).to(self.device)
        parameters = [*self.encoder.parameters(), *heads.parameters()]
        optimizer = torch.optim.AdamW(parameters, recipe.see_rate, weight_decay=0.02)
        clock = self.checkpoint.begin("see", heads, optimizer, recipe.see_seconds, recipe.every)
        step = 0
        while (share := clock.share()) < 1:
            for rendered in farm.finished(recipe.fresh):
                arrived = receive(rendered, self.prompts, self.device)
                self.checkpoint.clips += 1
                if len(self.footage) < recipe.footage:
                    self.footage.append(arrived)
                else:
                    self.footage[self.dice.randrange(len(self.footage))] = arrived
            self._rate(optimizer, recipe.see_rate, share)
            # The heads start from nothing: for a moment they alone learn.
            self.encoder.requires_grad_(share > 0.03)
            picked = pick_steps(self.footage, recipe.see_steps, self.dice)
            loss = seeing_loss(self.encoder, heads, picked, recipe, self._cast())
            self._step(optimizer, loss, parameters)
            step += 1
            if clock.due():
                marks = mark_seeing(self.encoder, heads, self.validation)
                self.log({"part": "see", "step": step, "loss": loss.item(), **clock.times(), **marks})
                clock.save()
        turn_back(self.encoder, self.known, self.footage[:64])
        self.checkpoint.done("answer")

    def _hold(self, footage: list[Footage]) -> None:
        with self._cast():
            encoded = encode(self.encoder, footage)
        if self.recipe.few_seconds:
            whole = [clip for clip in encoded if clip.steps <= LONG_STEPS]  # of a longer one tokens are missing
            tokens = [clip.tokens.unflatten(0, (clip.steps, -1)).cpu().numpy() for clip in whole]
            self.ranks.rank(whole, tokens, [[self._count(clip, s) for s in self.recipe.few_shares] for clip in whole])
            encoded = [clip for clip in encoded if clip.steps > LONG_STEPS]
        self._keep(encoded)

    def _keep(self, clips: Iterable[LongClip]) -> None:
        for clip in clips:
            held = self.clips[clip.steps]
            if len(held) < self.recipe.held:
                held.append(clip)
            else:
                held[self.dice.randrange(len(held))] = clip

    def _keep_ranked(self, wait: bool = False) -> None:
        """Also clips that were ranked meanwhile, or, with `wait`, all."""
        for clip, ranks in self.ranks.finished(wait):
            self._keep([dataclasses.replace(clip, ranks=torch.from_numpy(ranks).to(self.device))])

    def _count(self, clip: LongClip, share: float) -> int:
        return max(FEWEST, int(len(clip.tokens) * share))

    def answer_at_length(self, farm: ClipFarm) -> None:
        """Part 2."""
        width = self.model.config.text_config.hidden_size
        heads = nn.ModuleDict(
            {"acts": nn.Linear(width, len(ACTS)), "pointer": Pointer(width), "travelled": nn.Linear(width, 2)}
        ).to(self.device)

        def learn() -> Learned:
            self._take(farm, self.recipe.fresh)
            return self._losses_at_length(heads)

        self._answer("answer", self.recipe.answer_seconds, self.recipe.answer_rate, heads, learn)
        self.checkpoint.done("few")

    def _take(self, farm: ClipFarm, jobs: int) -> None:
        """What was rendered and ranked meanwhile."""
        if arrived := [receive(found, self.prompts, self.device) for found in farm.finished(jobs)]:
            self.checkpoint.clips += len(arrived)
            self._hold(arrived)
        self._keep_ranked()

    def answer_from_few(self, farm: ClipFarm) -> None:
        """Part 3."""
        while sum(map(len, self.clips.values())) < self.recipe.few_clips:
            self._hold(self._first(farm, CLIPS_PER_JOB))
            self.checkpoint.clips += CLIPS_PER_JOB
            self._keep_ranked()

        def learn() -> Learned:
            self._take(farm, self.recipe.few_fresh)
            return self._losses_from_few()

        self._answer("few", self.recipe.few_seconds, self.recipe.few_rate, nn.ModuleDict(), learn)

    def _answer(
        self, part: str, seconds: float, rate: float, heads: nn.ModuleDict, learn: Callable[[], Learned]
    ) -> None:
        """The decoder and some heads learn from one batch after another until the time is over."""
        trained = (self.model.model.language_model, self.model.lm_head, heads)
        parameters = [parameter for module in trained for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.98), weight_decay=0.02)
        clock = self.checkpoint.begin(part, heads, optimizer, seconds, self.recipe.every)
        right, step = defaultdict[str, list[torch.Tensor]](list), 0
        while (share := clock.share()) < 1:
            self._rate(optimizer, rate, share)
            whole, losses, answered = learn()
            self._step(optimizer, sum(losses.values(), torch.zeros((), device=self.device)), parameters)
            right["whole" if whole else "pruned"].append(answered)
            step += 1
            if clock.due():
                shares = {name: torch.stack(values).mean().item() for name, values in right.items()}
                right.clear()
                lost = {name: loss.item() for name, loss in losses.items()}
                self.log({"part": part, "step": step, **clock.times(), **shares, **lost, **self.marks().row()})
                clock.save()
        self.log({"part": part, "step": step, **clock.times(), **self.marks().row()})

    def _choose(self, count: Callable[[LongClip], int]) -> tuple[list[LongClip], int]:
        """Clips of one length, and how many tokens of each are kept."""
        recipe, dice = self.recipe, self.dice
        lengths = [steps for steps, held in self.clips.items() if held]
        held = self.clips[dice.choices(lengths, [recipe.lengths[length] for length in lengths])[0]]
        kept = count(held[0])
        rows = max(2, min(256, recipe.rows // (kept + SLOTS * WIDTH)))
        return dice.choices(held, k=rows), kept

    def _drawn(self, clips: list[LongClip], count: int) -> torch.Tensor | None:
        if count == len(clips[0].tokens):
            return None
        # Evidence tells on a drifter (of what rests, only what is asked for is evidence): so things are favoured.
        favour = torch.rand(len(clips), generator=self.generator, device=self.device) * 1.5
        things = torch.rand(len(clips), generator=self.generator, device=self.device) < 0.5
        return draw(clips, count, favour, things, self.generator)

    def _losses_at_length(self, heads: nn.ModuleDict) -> Learned:
        recipe, pointer = self.recipe, cast(Pointer, heads["pointer"])
        share = 1.0 if self.dice.random() < recipe.whole else recipe.least ** self.dice.random()
        chosen, count = self._choose(lambda clip: self._count(clip, share))
        kept = self._drawn(chosen, count)
        with self._cast():
            batch = batch_of(chosen, self.model.model.language_model.embed_tokens, self.prompts, kept)
            early, halfway, hidden = decode(self.model, batch)
            first, second, answers, _ = predict(self.model, batch, hidden)
            acts = heads["acts"](halfway[:, batch.visual]).float()
            travelled = heads["travelled"](early[:, batch.visual]).float()
            point = pointer.loss(halfway, batch)
        shown = ~batch.travelled[..., :1].isnan()
        missed = (travelled - batch.travelled.nan_to_num()).square() * shown
        weights = ACT_WEIGHTS.to(self.device)
        losses = {
            **self._right_answer(first, second, answers),
            "act": recipe.auxiliary * functional.cross_entropy(acts.flatten(0, 1), batch.acts.flatten(), weights),
            "point": recipe.auxiliary * point.float(),
            "way": recipe.auxiliary * recipe.way * missed.sum() / (2 * shown.sum()),
        }
        return kept is None, losses, _right(first, answers)

    def _losses_from_few(self) -> Learned:
        recipe = self.recipe
        budget = self.dice.randrange(len(recipe.few_shares))
        share = 1.0 if self.dice.random() < recipe.few_whole else recipe.few_shares[budget]
        chosen, count = self._choose(lambda clip: self._count(clip, share))
        kept = self._drawn(chosen, count)
        ranks = [clip.ranks[:, budget] for clip in chosen if clip.ranks is not None]
        if kept is not None and len(ranks) == len(chosen) and self.dice.random() < 0.5:
            selector = self.dice.randrange(len(RULES))
            kept = kept_by([clip[selector] for clip in ranks], count)
        with self._cast():
            batch = batch_of(chosen, self.model.model.language_model.embed_tokens, self.prompts, kept)
            first, second, answers, _ = predict(self.model, batch, decode(self.model, batch)[2])
        return kept is None, self._right_answer(first, second, answers), _right(first, answers)

    def _right_answer(
        self, first: torch.Tensor, second: torch.Tensor, answers: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        return {
            "loss": functional.cross_entropy(first.float(), answers),
            "end": 0.1 * functional.cross_entropy(second.float(), torch.full_like(answers, self.prompts.end)),
        }

    def marks(self) -> Marks:
        """Right answers on unpruned validation clips."""
        parts = (self.validation[start : start + 32] for start in range(0, len(self.validation), 32))
        clips = [clip for part in parts for clip in encode(self.encoder, part)]
        return mark(self.model, self.prompts, clips)


def _right(first: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return (first.argmax(-1) == answers).float().mean().detach()


def pick_device(device: str) -> str:
    """The device for "auto"; "cpu" and "cuda" for themselves.

    Raises:
        ScoreEdgeError: there is no such device.
    """
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and found == "cpu":
        raise ScoreEdgeError("torch finds no CUDA device", "train with --device cpu")
    return found if device == "auto" else device


def train_long(
    folder: Path, start: dict[str, torch.Tensor], device: str, threads: int, on_log: Log = lambda row: None
) -> Path:
    """The long stage by the recipe of its device; writes metrics.jsonl beside the weights.

    Args:
        folder: created if need be; a run that was cut off there goes on.
        start: weights of the reference model.
        device: "cpu", "cuda", or "auto".
        threads: of the CPU.
        on_log: told every row of metrics.

    Raises:
        ScoreEdgeError: there is no such device, or the folder cannot be made.
    """
    device = pick_device(device)
    make_folder(folder)
    torch.set_num_threads(threads)
    recipe = gpu_recipe(70, 250, 290, max(1, usable_cpus() - 2)) if device == "cuda" else LongRecipe()
    metrics = folder / "metrics.jsonl"

    def log(row: dict[str, Any]) -> None:
        add_row(metrics, row)
        on_log(row)

    training = LongTraining(folder, start, recipe, device, log)
    keep_rows(metrics, training.checkpoint.covers)
    return training.run()
