"""Many rollouts in one pass: each its kept tokens, padded to the longest, and behind them every question of the clip.

A question sees the video and itself, no other question, so that all share one visual prefix. Answers are
teacher-forced.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Question:
    """A tokenised question.

    Attributes:
        prompt: ids after the video, up to where the answer starts.
        answer: ids of the answer, without an end of turn.
    """

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Clip:
    """What the frozen model makes of a clip, once.

    Attributes:
        tokens: (T, N, D) float16.
        unpruned: (Q,) float32 CE of each question's answer with every token kept, nats per answer token.
    """

    tokens: torch.Tensor
    questions: list[Question]
    unpruned: torch.Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """B sequences for one forward pass.

    Attributes:
        visual: (B, V, D) float16 kept tokens, zeros behind the last.
        text: (B, S) ids: the question segments.
        positions: (3, B, L) int64 (t, h, w), L = before + V + S.
        mask: (B, 1, L, L) bool, True where the row may see the column.
        row, at, target: (M,) which sequence, which of its positions predicts, what it should predict.
        question: (M,) which question of its clip.
    """

    visual: torch.Tensor
    text: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    row: torch.Tensor
    at: torch.Tensor
    target: torch.Tensor
    question: torch.Tensor


def pack(
    clips: Sequence[Clip], keeps: Sequence[torch.Tensor], before: int, grid: tuple[int, int], *, compact: bool = False
) -> Packed:
    """Lay out one sequence per (clip, mask).

    Args:
        clips: B of them, the same clip as often as it has masks.
        keeps: B masks (T, N) bool.
        before: tokens of text in front of the video.
        grid: (height, width) of a step's tokens.
        compact: number kept tokens through instead of keeping (t, h, w), for models with plain RoPE.
    """
    count = len(clips)
    shown = max(int(keep.sum()) for keep in keeps)
    said = max(sum(len(q.prompt) + len(q.answer) - 1 for q in clip.questions) for clip in clips)
    visual = torch.zeros(count, shown, clips[0].tokens.shape[-1], dtype=torch.float16)
    text = torch.zeros(count, said, dtype=torch.long)
    places = torch.zeros(3, count, before + shown + said, dtype=torch.long)
    places[:, :, :before] = torch.arange(before)
    # 0: seen by all; q: question q; -1: padding, seen by none.
    segment = torch.full((count, before + shown + said), -1)
    segment[:, :before] = 0
    rows, ats, targets, questions = list[int](), list[int](), list[int](), list[int]()
    for b, (clip, keep) in enumerate(zip(clips, keeps, strict=True)):
        t, cell = torch.nonzero(keep, as_tuple=True)
        kept = len(t)
        visual[b, :kept] = clip.tokens[t, cell]
        if compact:
            places[:, b, before : before + kept] = before + torch.arange(kept)
            behind = before + kept
        else:
            places[:, b, before : before + kept] = before + torch.stack([t, cell // grid[1], cell % grid[1]])
            behind = before + max(len(keep), *grid)
        segment[b, before : before + kept] = 0
        start = before + shown
        for q, asked in enumerate(clip.questions, 1):
            said_ids = [*asked.prompt, *asked.answer[:-1]]
            end = start + len(said_ids)
            text[b, start - before - shown : end - before - shown] = torch.tensor(said_ids)
            places[:, b, start:end] = behind + torch.arange(len(said_ids))
            segment[b, start:end] = q
            rows += [b] * len(asked.answer)
            ats += range(end - len(asked.answer), end)
            targets += asked.answer
            questions += [q - 1] * len(asked.answer)
            start = end
    mask = (segment[:, None, :] == 0) | ((segment[:, None, :] == segment[:, :, None]) & (segment[:, None, :] > 0))
    mask &= torch.ones(mask.shape[1:], dtype=torch.bool).tril()
    numbers = (torch.tensor(values) for values in (rows, ats, targets, questions))
    return Packed(visual, text, places, mask[:, None], *numbers)
