"""Clips of the reference world as the tensors that training needs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset

from score_edge.learning.reference_model import PREPROCESSING
from score_edge.reference import world
from score_edge.reference.labels import label
from score_edge.reference.tokenizer import PROMPT_AFTER, PROMPT_BEFORE, build_tokenizer


@dataclass(frozen=True, slots=True)
class TokenisedQuestion:
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

    def at(self, chosen: torch.Tensor) -> "TokenisedQuestion":
        """The same question when only these visual tokens are left."""
        return TokenisedQuestion(self.prompt, self.answer, self.kind, self.evidence[chosen])


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip, with dense labels per visual token for the auxiliary losses.

    Attributes:
        patches: (T, P, C) float32, what the vision encoder takes.
        looks, offsets, travelled, acts: see `Labels`.
        evidence: (T, N) bool, union over the questions.
        questions: what is asked, with the evidence of each.
    """

    patches: torch.Tensor
    looks: torch.Tensor
    offsets: torch.Tensor
    travelled: torch.Tensor
    acts: torch.Tensor
    evidence: torch.Tensor
    questions: list[TokenisedQuestion]


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
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; special tokens are parsed."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def question(self, question: world.Question) -> TokenisedQuestion:
        """Tokenise a question and its one-token answer."""
        evidence = torch.from_numpy(question.evidence.ravel())
        kind = world.QUESTION_TYPES.index(question.kind)
        return TokenisedQuestion(self.after(question.text), self.answer(question.answer), kind, evidence)

    def after(self, question: str) -> list[int]:
        """What follows the video, up to where the answer starts."""
        if question not in self._known:
            self._known[question] = self.ids(PROMPT_AFTER.format(question=question))
        return self._known[question]

    def ids_around(self) -> tuple[int, int]:
        """How many tokens of `after` stand before the question's own text, and how many behind it."""
        before, behind = PROMPT_AFTER.split("{question}")
        return len(self.ids(before)), len(self.ids(behind))

    def answer(self, word: str) -> int:
        """The one token of an answer."""
        if word not in self._known:
            self._known[word] = self.ids(word)
        (token,) = self._known[word]
        return token


def make_sample(clip: world.Clip, prompts: Prompts) -> Sample:
    """Patches, dense labels and tokenised questions of a clip."""
    labels, steps = label(clip), len(clip.images) // world.FRAMES_PER_STEP
    images = clip.images.reshape(steps, world.FRAMES_PER_STEP, *clip.images.shape[1:])
    return Sample(
        torch.from_numpy(np.stack([PREPROCESSING.patchify(step) for step in images])),
        torch.from_numpy(labels.looks),
        torch.from_numpy(labels.offsets),
        torch.from_numpy(labels.travelled),
        torch.from_numpy(labels.acts),
        torch.from_numpy(np.logical_or.reduce([q.evidence for q in clip.questions])),
        [prompts.question(q) for q in clip.questions],
    )
