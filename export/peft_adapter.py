"""A LoRA as the peft package has it, to be merged into its checkpoint for a backend that takes no adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_edge.bundle.atomic import atomic_folder
from score_edge.errors import require


def write_peft(matrices: Mapping[str, tuple[Any, Any]], folder: Path, *, alpha: float, decoder: str, base: str) -> Path:
    """Write adapter_config.json and adapter_model.safetensors, as `PeftModel.from_pretrained` takes them.

    Args:
        matrices: see `write_adapter`.
        folder: where to; one that is there is replaced.
        alpha: see `write_adapter`.
        decoder: name of the text decoder in the whole model.
        base: name of the checkpoint.

    Returns:
        The folder.
    """
    save_file = require("safetensors.torch", "export").save_file
    layers = {f"{decoder}.{layer}": pair for layer, pair in matrices.items()}
    tensors = {
        f"base_model.model.{layer}.lora_{part}.weight": matrix.detach().float().cpu().contiguous()
        for layer, pair in layers.items()
        for part, matrix in zip("AB", pair, strict=True)
    }
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": len(next(iter(matrices.values()))[0]),
        "lora_alpha": alpha,
        "target_modules": [*layers],
        "inference_mode": True,
    }
    with atomic_folder(folder, overwrite=True) as new:
        save_file(tensors, new / "adapter_model.safetensors")
        (new / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder
