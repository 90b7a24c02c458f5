"""Learn an adapter by distillation: from few visual tokens say what the same model says when it sees all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from score_edge.learning.adapter import Adapter
from score_edge.learning.answer_targets import Teacher
from score_edge.learning.curriculum import Scene
from score_edge.learning.features import Features
from score_edge.learning.frozen_model import FrozenModel
from score_edge.learning.recipe import AdapterRecipe
from score_edge.learning.rollouts import draw_rate, generator
from score_edge.learning.text_decoder import TextDecoder
from score_edge.learning.training_loop import Log, Row, training_loop
from score_edge.selection.base import Selector


@dataclass(frozen=True, slots=True)
class Lesson:
    """Everything a clip goes through.

    Attributes:
        model: selects tokens and lays out prompts.
        decoder: with the adapter beside it.
        features, teacher: hold every clip.
        selector: what keeps tokens.
    """

    model: FrozenModel
    decoder: TextDecoder
    adapter: Adapter
    features: Features
    teacher: Teacher
    selector: Selector

    def loss(self, scene: Scene, share: float) -> torch.Tensor:
        """KL divergence in nats, mean over the answer tokens of a clip, with a share of its visual tokens."""
        clip = self.features.read(scene)
        keep = self.model.select(clip.tokens, self.selector, share)
        logits = self.decoder.logits(self.model.prompt(clip, keep))
        return self.teacher.read(scene).divergence(logits).mean()

    @torch.no_grad()
    def mean_loss(self, scenes: Sequence[Scene], shares: Sequence[float]) -> float:
        """The same for some clips, each as important as any, with a share for each."""
        return float(torch.stack([self.loss(*pair) for pair in zip(scenes, shares, strict=True)]).mean())


def train_adapter(
    folder: Path,
    lesson: Lesson,
    held: Sequence[Scene],
    learned: Sequence[Scene],
    recipe: AdapterRecipe,
    data: str,
    *,
    resume: bool = False,
    on_log: Log = lambda row: None,
) -> None:
    """Run the recipe; the adapter is then what it has learned. See `training_loop`.

    Of an update's clips `few` and `whole` are the losses by whether all tokens were kept, `keep` is the mean share.
    `held` is the loss of the clips that are held out, with shares drawn once as in learning, and `held_whole` with all
    of their tokens.

    Args:
        folder: gets checkpoint.safetensors and metrics.jsonl.
        lesson: its clips are all prepared.
        held, learned: clips to measure on and to learn from, see `hold_out`.
        recipe: every number, with a learning rate.
        data: the same for the same clips and weights.
        resume: go on from the checkpoint.
        on_log: told what is written to metrics.jsonl.

    Raises:
        ScoreEdgeError: as `training_loop`.
    """
    lowest, highest = recipe.lowest, recipe.highest
    shares_held = [draw_rate(lowest, highest, generator(recipe.seed, 3, i)) for i in range(len(held))]

    def evaluate() -> Row:
        few = lesson.mean_loss(held, shares_held)
        return {"held": few, "held_whole": lesson.mean_loss(held, [1.0] * len(held))}

    def update(step: int) -> Row:
        losses: dict[bool, list[float]] = {True: [], False: []}
        shares = []
        for slot in range(recipe.clips):
            stream = generator(recipe.seed, 2, step, slot)
            scene = learned[int(torch.randint(len(learned), (), generator=stream))]
            whole = float(torch.rand((), generator=stream)) < recipe.whole
            shares.append(1.0 if whole else draw_rate(lowest, highest, stream))
            loss = lesson.loss(scene, shares[-1])
            (loss / recipe.clips).backward()
            losses[whole].append(float(loss.detach()))
        named = (("few", losses[False]), ("whole", losses[True]))
        return {"keep": sum(shares) / len(shares)} | {name: sum(some) / len(some) for name, some in named if some}

    training_loop(folder, lesson.adapter, recipe, data, update, evaluate, resume=resume, on_log=on_log)
