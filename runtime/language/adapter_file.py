"""What a LoRA file must be before llama.cpp may have it: it ends the process where a value is of another type."""

from pathlib import Path

import numpy as np

from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.gguf_header import GgufHeader, read_header

LEARN_AGAIN = "it was learned for another model or is damaged: learn it again with `score-edge train adapter`"
_FLOATS = {0: np.float32, 1: np.float16}  # ggml's number of a type
_MOST_RANK = 4096


def check_adapter(path: Path) -> None:
    """Refuse a file that is no whole LoRA of finite numbers; whether it fits a model is for llama.cpp to say.

    Raises:
        ScoreEdgeError: with what is wrong.
    """
    if not path.is_file():
        raise ScoreEdgeError(f"there is no adapter {path}", LEARN_AGAIN)
    try:
        _check(read_header(path))
    except (OSError, ValueError) as error:
        raise ScoreEdgeError(f"{path} is no adapter: {error}", LEARN_AGAIN) from error


def _check(header: GgufHeader) -> None:
    """Raise ValueError where something is wrong."""
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if header.values.get(key) != wanted:
            raise ValueError(f"its {key} is {header.values.get(key)!r}, not {wanted!r}")
    if not isinstance(header.values.get("general.architecture"), str):
        raise ValueError("its general.architecture is not named")
    alpha = header.values.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or not 0 < alpha < 1e6:
        raise ValueError(f"its adapter.lora.alpha is {alpha!r}")
    if not header.tensors:
        raise ValueError("it has no tensors")
    for name, tensor in header.tensors.items():
        axis = {".lora_a": 1, ".lora_b": 0}.get(name[-7:])
        if axis is None or len(tensor.shape) != 2 or not 0 < tensor.shape[axis] <= _MOST_RANK:
            raise ValueError(f"its tensor {name} of shape {tensor.shape} is no part of a LoRA")
        # Rows of a token table are looked up here, not by llama.cpp: see `TokenRows`.
        if name.startswith("token_embd.") or tensor.kind not in _FLOATS:
            raise ValueError(f"its tensor {name} is of a kind that is not taken here")
        count = tensor.shape[0] * tensor.shape[1]
        if tensor.offset + count * np.dtype(_FLOATS[tensor.kind]).itemsize > len(header.data):
            raise ValueError(f"it is cut off in {name}")
        values = np.frombuffer(header.data, _FLOATS[tensor.kind], count, tensor.offset)
        if not np.isfinite(values).all():
            raise ValueError(f"its tensor {name} is not finite")
