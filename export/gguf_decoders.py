"""What llama.cpp calls each kind of decoder, and where its GGUF is more than renamed tensors and the usual settings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from score_edge.errors import ScoreEdgeError

if TYPE_CHECKING:
    from gguf import GGUFWriter

Tensors: TypeAlias = Iterator[tuple[str, Any]]
"""Names of transformers' decoder, led by ``model.``, and torch tensors."""
_UNROTATED = 1e30  # a frequency divided by it stands still


def _as_they_are(config: Any, tensors: Tensors) -> Tensors:
    return tensors


def _nothing(writer: "GGUFWriter", config: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Decoder:
    """One kind of decoder.

    Attributes:
        architecture: llama.cpp's name.
        settings: writes those that other decoders do not have.
        tensors: the decoder's, changed to what llama.cpp computes with.
    """

    architecture: str
    settings: Callable[["GGUFWriter", Any], None] = _nothing
    tensors: Callable[[Any, Tensors], Tensors] = _as_they_are


def decoder_of(config: Any) -> Decoder:
    """The decoder of a text config.

    Raises:
        ScoreEdgeError: it is not known here.
    """
    if config.model_type not in DECODERS:
        raise ScoreEdgeError(f"a decoder of type {config.model_type!r} cannot be written to GGUF here")
    return DECODERS[config.model_type]


def _paired(config: Any, tensors: Tensors) -> Tensors:
    """llama.cpp rotates neighbouring pairs for this architecture, transformers one half against the other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, tensor in tensors:
        if count := heads.get(key.split(".")[-2]):
            tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).reshape(tensor.shape)
        yield key, tensor


def _lfm2_settings(writer: "GGUFWriter", config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_shortconv_l_cache(config.conv_L_cache)


def _lfm2_tensors(config: Any, tensors: Tensors) -> Tensors:
    for key, tensor in tensors:
        yield key, tensor.squeeze(1) if ".conv.conv." in key else tensor


def _qwen35_settings(writer: "GGUFWriter", config: Any) -> None:
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    interval = full[0] + 1 if full else 0
    if not full or full != list(range(interval - 1, config.num_hidden_layers, interval)):
        raise ScoreEdgeError(f"full attention in layers {full} is at no fixed distance, as llama.cpp wants it")
    writer.add_full_attention_interval(interval)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)


def _qwen35_tensors(config: Any, tensors: Tensors) -> Tensors:
    """Norms store what is added to one; value heads lie grouped by key head, llama.cpp repeats the row of key heads."""
    groups = config.linear_num_key_heads
    each = config.linear_num_value_heads // groups
    keys = 2 * groups * config.linear_key_head_dim

    def tiled(tensor: Any, dim: int = 0) -> Any:
        grouped = tensor.unflatten(dim, (groups, each, -1))
        return grouped.transpose(dim, dim + 1).flatten(dim, dim + 2)

    for key, tensor in tensors:
        part = key.partition(".linear_attn.")[2]
        if part in ("in_proj_qkv.weight", "conv1d.weight"):
            tensor = tensor.squeeze(1) if part.startswith("conv") else tensor
            tensor = _joined(tensor[:keys], tiled(tensor[keys:]))
        elif part in ("in_proj_z.weight", "in_proj_a.weight", "in_proj_b.weight", "dt_bias"):
            tensor = tiled(tensor)
        elif part == "A_log":
            tensor = -tiled(tensor).exp()
        elif part == "out_proj.weight":
            tensor = tiled(tensor, 1)
        elif key.endswith("norm.weight") and not part:
            tensor = tensor + 1
        yield key.replace(".dt_bias", ".dt_proj.bias"), tensor


def _joined(first: Any, second: Any) -> Any:
    import torch

    return torch.cat([first, second])


def _gemma4_settings(writer: "GGUFWriter", config: Any) -> None:
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    windowed = config.per_layer_config["sliding_attention"].head_dim
    owners = len(sliding) - config.num_kv_shared_layers
    if config.num_kv_shared_layers and sliding[owners - 2 : owners] != [True, False]:
        raise ScoreEdgeError("layers without keys of their own do not share the two before them, as llama.cpp has it")
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(sliding)
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_key_length_swa(windowed)
    writer.add_value_length_swa(windowed)
    writer.add_rope_dimension_count_swa(windowed)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _gemma4_tensors(config: Any, tensors: Tensors) -> Tensors:
    """One table more: of the full layers' pairs only the first ones turn, the others' frequency is divided away."""
    import torch

    rope = config.rope_parameters["full_attention"]
    pairs = config.per_layer_config["full_attention"].head_dim // 2
    turning = int(pairs * rope.get("partial_rotary_factor", 1.0))
    yield "rope_freqs.weight", torch.tensor([1.0] * turning + [_UNROTATED] * (pairs - turning))
    for key, tensor in tensors:
        yield f"{key}.weight" if key.endswith("layer_scalar") else key, tensor


# model_type of a text config.
DECODERS = {
    "qwen2_vl_text": Decoder("qwen2vl"),
    "qwen2_5_vl_text": Decoder("qwen2vl"),
    "qwen3_vl_text": Decoder("qwen3vl"),
    "qwen3_5_text": Decoder("qwen35", _qwen35_settings, _qwen35_tensors),
    "qwen2": Decoder("qwen2"),
    "qwen3": Decoder("qwen3"),
    "llama": Decoder("llama", tensors=_paired),
    "lfm2": Decoder("lfm2", _lfm2_settings, _lfm2_tensors),
    "gemma4_text": Decoder("gemma4", _gemma4_settings, _gemma4_tensors),
}
