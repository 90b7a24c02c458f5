"""A LoRA as a GGUF file, which llama.cpp applies beside a model of any quantisation."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import require
from score_edge.export.gguf_decoders import decoder_of
from score_edge.export.gguf_model import as_llama_has_them


def write_adapter(config: Any, matrices: Mapping[str, tuple[Any, Any]], path: Path, *, alpha: float) -> Path:
    """Write a LoRA; the file appears whole or not at all.

    Args:
        config: of the text decoder.
        matrices: by the linear layer's name in the decoder, ``layers.0.self_attn.q_proj``: a (rank, inputs) and b
            (outputs, rank), torch tensors. What is added to the layer's weight is alpha / rank * b @ a.
        path: where the file goes; an existing file is replaced.
        alpha: of all of them.

    Returns:
        The path written.

    Raises:
        ScoreEdgeError: the decoder is not known, a layer has no place in its GGUF, or a package is missing.
    """
    gguf = require("gguf", "export")
    with (
        atomic_file(path) as unfinished,
        contextlib.closing(gguf.GGUFWriter(unfinished, decoder_of(config).architecture)) as writer,
    ):
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for layer, (a, b) in matrices.items():
            name, rows, columns = _orders(config, layer, len(b), a.shape[1])
            for part, matrix in (("lora_a", a[:, columns]), ("lora_b", b[rows])):
                writer.add_tensor(f"{name}.{part}", matrix.detach().float().cpu().contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return path


def _orders(config: Any, layer: str, outputs: int, inputs: int) -> tuple[str, Any, Any]:
    """The GGUF name of a layer's weight, and in which order llama.cpp has its rows and its columns.

    Found from what becomes of a weight that holds the number of its row, or of its column, in every place.
    """
    torch = require("torch", "export")
    row = torch.arange(outputs, dtype=torch.int32)[:, None].expand(outputs, inputs)
    column = torch.arange(inputs, dtype=torch.int32).expand(outputs, inputs)
    (name, rows), (_, columns) = (
        found
        for numbers in (row, column)
        for found in as_llama_has_them(config, {f"model.{layer}.weight": numbers})
        if found[0].startswith("blk.")
    )
    return name, rows[:, 0].long(), columns[0].long()
