"""What a rollout earns and how a group of rollouts turns that into advantages.

The paper (arXiv 2603.26365) fixes the ingredients: cross-entropy of the answer with the kept tokens against that with
all of them, a sparsity reward of the mask, a computation over the group, and the name "split-advantage" with its aim,
to reward sparsity only if quality stays high. The formulas are not published where we could read them; these are ours.
"""

import torch

STD_FLOOR = 0.02  # below this a group's differences are noise, and dividing by their size would amplify it


def quality(loss: torch.Tensor, unpruned: torch.Tensor) -> torch.Tensor:
    """How much likelier the kept tokens make the right answers than all tokens do, mean over the questions of a clip.

    exp(-CE) is the (per-token geometric mean) probability of the answer. The difference of two is bounded by 1, so that
    no single hopeless question outweighs all others, as it would in CE_base - CE_k, whose sign it shares.

    Args:
        loss: (K, Q) CE_k per question, nats per answer token.
        unpruned: (Q,) CE_base.

    Returns:
        (K,) in [-1, 1]: 0 where nothing was lost, above where pruning helped.
    """
    return (torch.exp(-loss) - torch.exp(-unpruned)).mean(dim=1)


def sparsity(masks: torch.Tensor) -> torch.Tensor:
    """(K,) share of dropped tokens of (K, n) masks."""
    return 1 - masks.float().mean(dim=1)


def standardise(values: torch.Tensor) -> torch.Tensor:
    """(value - mean) / max(std, STD_FLOOR) over each set (..., K) of rewards; zeros for sets of less than two."""
    if values.shape[-1] < 2:
        return torch.zeros_like(values)
    centred = values - values.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=STD_FLOOR)


def split_advantage(quality: torch.Tensor, sparsity: torch.Tensor, *, weight: float, slack: float) -> torch.Tensor:
    """Quality for every rollout, sparsity only among those whose quality held.

    A_k = Â(quality_k) + weight * 1[quality_k >= -slack] * Â(sparsity_k among those that pass), each normalised in its
    own set. A mask that merely drops much earns nothing by it.

    Args:
        quality: (K,) relative to the unpruned run.
        sparsity: (K,) share of dropped tokens.
        weight: of sparsity.
        slack: loss of quality that still counts as none.

    Returns:
        (K,) advantages.
    """
    advantage = standardise(quality)
    held = quality >= -slack
    advantage[held] += weight * standardise(sparsity[held])
    return advantage


def product_advantage(quality: torch.Tensor, sparsity: torch.Tensor) -> torch.Tensor:
    """The single advantage of the figure read literally: Â(quality_k * sparsity_k), one normalisation.

    Its flaw, which the split repairs: where quality was lost, dropping more makes a negative product more negative, and
    where it was gained, keeping the mask sparse and gaining quality cannot be told apart.
    """
    return standardise(quality * sparsity)
