"""Clips of the reference world as the tensors that training needs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset

from score_edge.learning.reference_model import PREPROCESSING, SAME_CELL_LAGS
from score_edge.reference import world
from score_edge.reference.tokenizer import PROMPT_AFTER, PROMPT_BEFORE, build_tokenizer

FARTHEST = 0.6  # cells of travel worth telling apart: more is no drift
ACTS = ("none", *world.DIRECTIONS, "flash", "drifter")


@dataclass(frozen=True, slots=True)
class Asked:
    """A tokenised question.

    Attributes:
        prompt: ids after the video, up to where the answer starts.
        answer: its one token.
        kind: index into the world's question types.
        evidence: (n,) bool, which of the visual tokens carry the answer.
    """

    prompt: list[int]
    answer: int
    kind: int
    evidence: torch.Tensor

    def at(self, chosen: torch.Tensor) -> "Asked":
        """The same question when only these visual tokens are left."""
        return Asked(self.prompt, self.answer, self.kind, self.evidence[chosen])


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip, with dense labels per visual token for the auxiliary losses.

    Attributes:
        patches: (T, P, C) float32, what the vision encoder takes.
        looks: (T, N, 2) int64: shape and colour of what a token shows, 0 = nothing.
        offsets: (T, N, 2 * frames per step) float32: where its centre is in each frame, from the token's centre, in
            cells; motion within a step is their difference.
        travelled: (T, N, 2) float32: how far what a token shows has come in the last SAME_CELL_LAGS[0] steps, in cells,
            a mover's way cut short; NaN where it shows nothing.
        acts: (T, N) int64 index into ACTS: what the thing a token shows is doing in that step.
        evidence: (T, N) bool, union over the questions.
        questions: what is asked, with the evidence of each.
    """

    patches: torch.Tensor
    looks: torch.Tensor
    offsets: torch.Tensor
    travelled: torch.Tensor
    acts: torch.Tensor
    evidence: torch.Tensor
    questions: list[Asked]


class WorldSamples(IterableDataset[Sample]):
    """Endless samples of one split; worker w of W takes every W-th clip.

    Args:
        seed: one of the world's split seeds.
        start: index of the first clip.
        lengths: steps of a clip and how often each is drawn.
    """

    def __init__(self, seed: int, start: int, lengths: dict[int, float]) -> None:
        self.seed, self.start, self.lengths = seed, start, lengths

    def __iter__(self) -> Iterator[Sample]:
        info = torch.utils.data.get_worker_info()
        index, stride = self.start, 1
        if info is not None:
            torch.set_num_threads(1)
            index, stride = index + info.id, info.num_workers
        prompts = Prompts()
        while True:
            draw = np.random.default_rng((self.seed, index))
            steps = int(draw.choice(list(self.lengths), p=list(self.lengths.values())))
            yield make_sample(world.make_clip(self.seed, index, steps), prompts)
            index += stride


class Prompts:
    """Questions and answers as token ids."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.before: list[int] = self.ids(PROMPT_BEFORE)
        self.end: int = self.ids("<|im_end|>")[0]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; special tokens are parsed."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def question(self, question: world.Question) -> Asked:
        """Tokenise a question and its one-token answer."""
        (answer,) = self.ids(question.answer)
        after = self.ids(PROMPT_AFTER.format(question=question.text))
        evidence = torch.from_numpy(question.evidence.ravel())
        return Asked(after, answer, world.QUESTION_TYPES.index(question.kind), evidence)


def make_sample(clip: world.Clip, prompts: Prompts) -> Sample:
    """Patches, dense labels and tokenised questions of a clip."""
    cover = np.stack([thing.cover() for thing in clip.things])  # (things, T, N)
    owner, shown = cover.argmax(axis=0), cover.max(axis=0) > 0.12
    side, (steps, tokens) = world.SIZE // world.CELL, owner.shape
    when = np.arange(steps)[:, None]
    names = [(world.SHAPES.index(thing.shape) + 1, world.COLORS.index(thing.color) + 1) for thing in clip.things]
    # A drift cannot be seen in its first steps.
    acting = [thing.acting & ((thing.role != "drifter") | (when[:, 0] >= 3)) for thing in clip.things]
    acts = [thing.direction if thing.role == "mover" else thing.role.replace("still", "none") for thing in clip.things]
    paths = np.stack([thing.path.reshape(steps, -1) for thing in clip.things])  # (things, T, frames per step * 2)
    row, column = np.divmod(np.arange(tokens), side)
    middle = np.tile(np.stack([column, row], axis=1) * world.CELL + world.CELL / 2, (1, world.FRAMES_PER_STEP))
    offsets = ((paths[owner, when] - middle) / world.CELL).astype(np.float32)
    centres = np.stack([thing.path[world.FRAMES_PER_STEP - 1 :: world.FRAMES_PER_STEP] for thing in clip.things])
    since = centres - centres[:, np.maximum(np.arange(steps) - SAME_CELL_LAGS[0], 0)]
    travelled = np.clip(since / world.CELL, -FARTHEST, FARTHEST)[owner, when]
    images = clip.images.reshape(steps, world.FRAMES_PER_STEP, *clip.images.shape[1:])
    return Sample(
        torch.from_numpy(np.stack([PREPROCESSING.patchify(step) for step in images])),
        torch.from_numpy(np.where(shown[..., None], np.array(names)[owner], 0)),
        torch.from_numpy(offsets),
        torch.from_numpy(np.where(shown[..., None], travelled, np.nan).astype(np.float32)),
        torch.from_numpy(
            np.where(shown & np.stack(acting)[owner, when], np.array([ACTS.index(act) for act in acts])[owner], 0)
        ),
        torch.from_numpy(np.logical_or.reduce([q.evidence for q in clip.questions])),
        [prompts.question(q) for q in clip.questions],
    )
