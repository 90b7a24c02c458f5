"""Where a policy starts: the normalisation of what it sees, and a short regression on the size of the change."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn import functional

from score_edge.export.policy_graph import PolicyNetwork
from score_edge.learning.prepared_clip import PreparedClip
from score_edge.learning.recipe import PolicyRecipe
from score_edge.learning.rollouts import generator
from score_edge.selection.residual import previous_tokens

_ROWS = 512  # taken into the statistics at a time


def policy_inputs(clip: PreparedClip) -> tuple[torch.Tensor, torch.Tensor]:
    """(T * N, D) float32 tokens and their reference rows, by the runtime's own definition."""
    tokens = clip.tokens.float()
    previous = torch.from_numpy(previous_tokens(tokens.numpy()))
    return tokens.flatten(0, 1), previous.flatten(0, 1)


def new_policy(clips: Sequence[PreparedClip], recipe: PolicyRecipe) -> PolicyNetwork:
    """A policy that normalises by these clips and, after a short regression, ranks by the size of the change.

    The regression is ours: a start from which rollouts already differ in what matters. It sees no answer and no label.
    """
    torch.manual_seed(recipe.seed)
    width = clips[0].tokens.shape[2]
    policy = PolicyNetwork(width, recipe.hidden)
    norms: list[float] = []  # small tensors in their place would keep the memory of the large ones from being freed

    def states() -> Iterator[torch.Tensor]:
        for clip in clips:
            for tokens, previous in zip(*(rows.split(_ROWS) for rows in policy_inputs(clip)), strict=True):
                change = tokens - previous
                norms.extend((change if recipe.residual else tokens).norm(dim=1).tolist())
                yield torch.cat([tokens, change], dim=1)

    mean, scale = normalisation(states())
    size = torch.tensor(norms).clamp(min=1e-6).log()
    policy.mean.copy_(mean)
    policy.scale.copy_(scale)
    if not recipe.residual:
        policy.scale[width:] = 0  # the graph keeps its two inputs and does not look at the change
    target = recipe.warm_spread * (size - size.mean()) / size.std().clamp(min=1e-6)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    stream = generator(recipe.seed, 0)
    for step in range(recipe.warm_steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / recipe.warm_steps)
        rows = torch.randint(len(size), (1024,), generator=stream)
        optimizer.zero_grad()
        functional.mse_loss(policy.logits(*_inputs_at(clips, rows)), target[rows]).backward()
        optimizer.step()
    return policy


def normalisation(parts: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What to subtract from each float of a policy's input, and what to multiply it by.

    Args:
        parts: rows of the input, (n, k) each, which together may fill the memory.

    Returns:
        (k,) float64 mean and 1 / standard deviation; that of a float that hardly varies is bounded.
    """
    count, sums, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in parts:
        rows = part.double()
        count += len(rows)
        sums = sums + rows.sum(dim=0)
        squares = squares + rows.square().sum(dim=0)
    least = 1e-3 * _deviation(sums.sum(), squares.sum(), count * len(sums))
    return sums / count, 1 / _deviation(sums, squares, count).clamp(min=least)


def _deviation(sums: torch.Tensor, squares: torch.Tensor, count: int) -> torch.Tensor:
    """Standard deviation from sums in float64."""
    return ((squares - sums.square() / count) / (count - 1)).clamp(min=0).sqrt()


def _inputs_at(clips: Sequence[PreparedClip], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """These rows of `policy_inputs` of all clips one after the other, which together may fill the memory."""
    tokens = torch.empty(len(rows), clips[0].tokens.shape[2])
    previous = torch.zeros_like(tokens)
    for clip in clips:
        held, step = clip.tokens.flatten(0, 1), clip.tokens.shape[1]
        here = (rows >= 0) & (rows < len(held))
        later = here & (rows >= step)
        tokens[here] = held[rows[here]].float()
        previous[later] = held[rows[later] - step].float()
        rows = rows - len(held)
    return tokens, previous
