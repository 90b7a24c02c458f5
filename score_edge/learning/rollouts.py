"""Masks drawn from the policy, their log probability, and the policy-gradient loss of a group of them."""

import numpy as np
import torch
from torch.nn import functional


def generator(*key: int) -> torch.Generator:
    """A random stream for one place in a run, for example (seed, step, clip).

    Nothing random has a state that lives longer than a step: a resumed run and a run of several processes draw what an
    undisturbed single one draws.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def rate_bias(logits: torch.Tensor, rate: torch.Tensor | float) -> torch.Tensor:
    """The shift b of each row with mean(sigmoid(logits + b)) = rate, by bisection.

    Its gradient is that of the equation it solves. Without it "raise all logits", which b undoes at once, is most of
    the policy gradient: of random masks those that happen to keep more tokens are the better ones.

    Args:
        logits: (..., n) float.
        rate: expected share of kept tokens, in (0, 1), of all rows or (..., 1) of each.

    Returns:
        (..., 1), on the device of the logits.
    """
    with torch.no_grad():
        low = torch.full_like(logits[..., :1], -40.0)
        high = -low
        for _ in range(40):
            middle = (low + high) / 2
            below = torch.sigmoid(logits + middle).mean(dim=-1, keepdim=True) < rate
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        bias = (low + high) / 2
        kept = torch.sigmoid(logits + bias)
        slope = kept * (1 - kept)
    moved = (slope * (logits - logits.detach())).sum(dim=-1, keepdim=True)
    return bias - moved / slope.sum(dim=-1, keepdim=True).clamp(min=1e-12)


def draw_rate(lowest: float, highest: float, stream: torch.Generator) -> float:
    """A keep rate, log-uniform between two."""
    return float(lowest * (highest / lowest) ** torch.rand((), generator=stream).item())


def draw_masks(logits: torch.Tensor, count: int, stream: torch.Generator) -> torch.Tensor:
    """(count, n) bool, Bernoulli(sigmoid(logits)) each; a mask is never empty."""
    uniform = torch.rand(count, len(logits), generator=stream).to(logits.device)
    keep = uniform < torch.sigmoid(logits.detach())
    likeliest = functional.one_hot(logits.detach().argmax(), len(logits)).bool()
    return torch.where(keep.any(dim=1, keepdim=True), keep, likeliest)


def log_probability(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """(..., K) mean over tokens of log pi(m_k | h) = m log p + (1 - m) log(1 - p), p = sigmoid(logits).

    Args:
        logits: (..., n) float.
        masks: (..., K, n) bool.
    """
    return -functional.binary_cross_entropy_with_logits(
        logits[..., None, :].expand(masks.shape), masks.to(logits.dtype), reduction="none"
    ).mean(dim=-1)


def group_loss(logits: torch.Tensor, masks: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """REINFORCE over groups of rollouts, as printed in the paper's method figure, the mean of several.

    -(1/K) sum_k A_k mean_i log pi(m_ki | h_i): no importance ratio, no clipping, no KL term.

    Args:
        logits: (..., n) of the policy the masks were drawn from, with gradient.
        masks: (..., K, n) bool.
        advantages: (..., K) float, constants.
    """
    return -(advantages.detach() * log_probability(logits, masks)).mean()
