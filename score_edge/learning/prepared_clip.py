"""What reinforcement learning needs of a clip, computed once."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question and the answer whose likelihood is the reward."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """A clip as the frozen model sees it.

    Attributes:
        tokens: (T, N, D) float16.
        times: T seconds, one per step.
        asked: Q of them.
        unpruned: (Q,) float32 CE of each answer with every token kept, nats per answer token.
    """

    tokens: torch.Tensor
    times: list[float]
    asked: list[QuestionAnswer]
    unpruned: torch.Tensor
