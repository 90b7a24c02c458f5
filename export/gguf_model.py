"""The text decoder of a vision-language model as a GGUF file, so that llama.cpp runs the same weights.

The vision encoder is not written: the bundle carries it as ONNX and hands llama.cpp finished embedding rows. Models,
tokenizers and tensors are those of transformers and torch, typed Any so that a type check needs neither.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from score_edge.bundle.atomic import atomic_file
from score_edge.errors import ScoreEdgeError, require
from score_edge.export.gguf_decoders import decoder_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

END_OF_TURN = "<|im_end|>"
Dtype = Literal["f32", "f16"]


def write_gguf(
    model: Any,
    tokenizer: Any,
    path: str | Path,
    *,
    dtype: Dtype = "f16",
    name: str = "",
) -> Path:
    """Write the text decoder and its tokenizer; the file appears whole or not at all.

    Args:
        model: a transformers model whose decoder is Qwen2 or Llama (plain RoPE), Qwen2-VL's, Qwen2.5-VL's or
            Qwen3-VL's (M-RoPE), alone or with its vision encoder.
        tokenizer: its fast byte-level BPE tokenizer with Qwen2's pre-tokenizer.
        path: where the file goes; an existing file is replaced.
        dtype: type of the matrices. Norms, biases and short convolutions stay float32, as llama.cpp wants them.
        name: the model's name in the file; the file's stem when empty.

    Returns:
        The path written.

    Raises:
        ScoreEdgeError: the decoder is another, uses something its GGUF cannot express, or a package is missing.

    Example:
        >>> write_gguf(model, tokenizer, "bundle/llm.gguf", dtype="f16")  # doctest: +SKIP
    """
    gguf = require("gguf", "export")
    path = Path(path)
    config = model.get_decoder().config
    rope = _rope(config)
    decoder = decoder_of(config)
    tensors = dict(named_tensors(model))
    with (
        atomic_file(path) as unfinished,
        contextlib.closing(gguf.GGUFWriter(unfinished, decoder.architecture)) as writer,
    ):
        writer.add_name(name or path.stem)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "f32" else gguf.LlamaFileType.MOSTLY_F16)
        _add_config(writer, config, rope)
        widths = [len(tensors[f"blk.{i}.ffn_up.weight"]) for i in range(config.num_hidden_layers)]
        writer.add_feed_forward_length(widths if len({*widths}) > 1 else widths[0])
        decoder.settings(writer, config)
        if levels := getattr(getattr(model.config, "vision_config", None), "deepstack_visual_indexes", None):
            writer.add_num_deepstack_layers(len(levels))
        _add_tokenizer(writer, tokenizer, config.vocab_size)
        for tensor_name, tensor in tensors.items():
            writer.add_tensor(tensor_name, _array(tensor, "f32" if "conv" in tensor_name.split(".")[-2] else dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return path


def _rope(config: Any) -> dict[str, Any]:
    """The rope parameters, refused where llama.cpp would silently compute something else."""
    rope: dict[str, Any] = config.rope_parameters
    windowed = "full_attention" in rope  # Gemma 4 has parameters of its own for its windowed layers
    rope = rope["full_attention"] if windowed else rope
    if (kind := rope.get("rope_type", "default")) not in ("default", "mrope", *(["proportional"] if windowed else [])):
        raise ScoreEdgeError(f"RoPE scaling '{kind}' cannot be written to GGUF yet", "use a model with plain RoPE")
    if getattr(config, "sliding_window", None) and not windowed:
        raise ScoreEdgeError("sliding-window attention cannot be written to GGUF for this architecture")
    return rope


def _add_config(writer: "GGUFWriter", config: Any, rope: dict[str, Any]) -> None:
    kinds = getattr(config, "layer_types", None)
    first = 0 if kinds is None else kinds.index("full_attention")
    layer = config.per_layer_config[first] if hasattr(config, "per_layer_config") else config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    kv = layer.num_key_value_heads
    writer.add_head_count_kv([0 if kind == "conv" else kv for kind in kinds] if kinds and "conv" in kinds else kv)
    writer.add_layer_norm_rms_eps(config.norm_eps if hasattr(config, "norm_eps") else config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    head = getattr(layer, "head_dim", None) or config.hidden_size // config.num_attention_heads
    share = 1.0 if rope["rope_type"] == "proportional" else rope.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(head * share))
    writer.add_key_length(head)
    writer.add_value_length(head)
    if sections := rope.get("mrope_section"):
        writer.add_rope_dimension_sections([*sections, 0, 0, 0, 0][:4])


def _add_tokenizer(writer: "GGUFWriter", tokenizer: Any, vocabulary: int) -> None:
    """Write the byte-level BPE; ids of the embedding table that no token uses become unused placeholders."""
    gguf = require("gguf", "export")
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    if bpe["model"]["type"] != "BPE":
        raise ScoreEdgeError(f"the tokenizer is {bpe['model']['type']}, only byte-level BPE can be written to GGUF")
    if len(tokenizer) > vocabulary:
        raise ScoreEdgeError(f"the tokenizer has {len(tokenizer)} tokens, the embedding table only {vocabulary} rows")
    tokens = [f"[PAD{i}]" for i in range(vocabulary)]
    types = [gguf.TokenType.UNUSED] * vocabulary
    for token, i in bpe["model"]["vocab"].items():
        tokens[i], types[i] = token, gguf.TokenType.NORMAL
    for added in bpe["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["model"]["merges"]])
    end = tokenizer.get_vocab().get(END_OF_TURN, tokenizer.eos_token_id)
    writer.add_eos_token_id(end)
    writer.add_eot_token_id(end)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(bool(getattr(tokenizer, "add_bos_token", False)))


def named_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (GGUF name, torch tensor); a head tied to the embeddings is left out, llama.cpp ties it too."""
    text = model.get_decoder()
    state = {f"model.{key}": tensor for key, tensor in text.state_dict().items()}
    head = model.get_output_embeddings().weight
    if head is not text.embed_tokens.weight:
        state["lm_head.weight"] = head
    yield from as_llama_has_them(text.config, state)


def as_llama_has_them(config: Any, tensors: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (GGUF name, tensor in llama.cpp's order of rows and columns).

    Args:
        config: of the text decoder.
        tensors: by transformers' name, led by ``model.``.
    """
    gguf = require("gguf", "export")
    decoder = decoder_of(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[decoder.architecture.upper()], config.num_hidden_layers)
    for key, tensor in decoder.tensors(config, iter(tensors.items())):
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ScoreEdgeError(f"tensor '{key}' has no place in a GGUF of this architecture")
        yield name, tensor


def _array(tensor: Any, dtype: Dtype) -> NDArray[np.floating]:
    # Through float32 first: numpy has no bfloat16.
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array.astype(np.float16) if dtype == "f16" and array.ndim == 2 else array
