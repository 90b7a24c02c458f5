"""The moments of an optimizer among the named tensors of a checkpoint."""

from collections.abc import Mapping

import torch


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything it remembers of its parameters, as ``adam.<parameter>.<moment>``."""
    return {
        f"adam.{i}.{name}": torch.as_tensor(value)
        for i, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what `moments_of` gave; other tensors are passed over."""
    state = {**optimizer.state_dict(), "state": dict[int, dict[str, torch.Tensor]]()}
    for name, tensor in tensors.items():
        if name.startswith("adam."):
            _, i, moment = name.split(".")
            state["state"].setdefault(int(i), {})[moment] = tensor
    optimizer.load_state_dict(state)
