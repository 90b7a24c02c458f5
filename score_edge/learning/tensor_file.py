"""Tensors that are computed once for a clip and kept on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import ScoreEdgeError


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write them in one go."""
    with atomic_file(path) as unfinished:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished)


def read_tensors(path: Path, names: Sequence[str]) -> list[torch.Tensor]:
    """Those tensors, in this order.

    Raises:
        ScoreEdgeError: the file is damaged, or gone.
    """
    try:
        with safe_open(path, "pt") as file:
            return [file.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise ScoreEdgeError(f"{path} is damaged: {error}", "delete it; it is made again") from error
