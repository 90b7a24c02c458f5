"""What the decoders of known shapes are made of: names and sizes of tensors, and settings, as llama.cpp has them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from score_edge.profiling.llm_shapes import LlmShape

Sizes: TypeAlias = dict[str, tuple[int, ...]]
"""Tensors by name; the last axis is the input's, as numpy has it."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """Attention in every layer, as in Llama and in Qwen up to 3."""

    def architecture(self, shape: "LlmShape") -> str:
        """llama.cpp's name."""
        if shape.head_width:
            return "qwen3vl" if shape.mrope else "qwen3"
        return "qwen2vl" if shape.mrope else "llama"

    def settings(self, writer: Any, shape: "LlmShape") -> None:
        """Write what is more than width, layers and heads."""
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_feed_forward_length(shape.feed_forward)
        writer.add_rope_freq_base(1e6)
        if shape.head_width:
            writer.add_key_length(shape.head)
            writer.add_value_length(shape.head)
        if shape.mrope:
            writer.add_rope_dimension_sections(self.rope_sections(shape))
        else:
            writer.add_vocab_size(shape.vocabulary)

    def rope_sections(self, shape: "LlmShape") -> list[int]:
        """Pairs of a head that turn with t, h, w: as in Qwen2-VL's 16, 24, 24 and Qwen3-VL's 24, 20, 20."""
        pairs = shape.head // 2
        time = pairs * 3 // 8 if shape.head_width else pairs // 4
        return [time, (pairs - time) // 2, pairs - time - (pairs - time) // 2, 0]

    def outside(self, shape: "LlmShape") -> Sizes:
        """Tensors that belong to no layer."""
        table = (shape.vocabulary, shape.width)
        head: Sizes = {} if shape.tied else {"output.weight": table}
        return {"token_embd.weight": table, "output_norm.weight": (shape.width,), **head}

    def layer(self, shape: "LlmShape", i: int) -> Sizes:
        """Tensors of one layer, without the layer's name."""
        sizes = {**attention(shape, shape.head), **feed_forward(shape, shape.feed_forward)}
        sizes |= {"attn_norm.weight": (shape.width,), "ffn_norm.weight": (shape.width,)}
        if shape.head_width:
            return sizes | norms(shape.head)
        if shape.mrope:  # the attention of Qwen before 3 has biases
            sizes |= {f"attn_{part}.bias": sizes[f"attn_{part}.weight"][:1] for part in "qkv"}
        return sizes

    def cached(self, shape: "LlmShape") -> int:
        """Numbers that a token takes in the KV cache."""
        return 2 * shape.layers * shape.kv_heads * shape.head


PLAIN = Decoder()


@dataclass(frozen=True, slots=True)
class GatedDelta(Decoder):
    """Qwen3.5: three layers with a recurrent state, one with gated attention, and so on.

    Attributes:
        value_heads: of the recurrent layers; they have 16 heads of keys.
        state: floats per head of them.
        interval: every how many layers there is attention.
    """

    value_heads: int = 16
    key_heads: int = 16
    state: int = 128
    interval: int = 4

    def architecture(self, shape: "LlmShape") -> str:
        """llama.cpp's name."""
        return "qwen35"

    def settings(self, writer: Any, shape: "LlmShape") -> None:
        """A quarter of a head turns."""
        Decoder.settings(self, writer, shape)
        writer.add_rope_dimension_count(shape.head // 4)
        writer.add_full_attention_interval(self.interval)
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_state_size(self.state)
        writer.add_ssm_group_count(self.key_heads)
        writer.add_ssm_time_step_rank(self.value_heads)
        writer.add_ssm_inner_size(self.value_heads * self.state)

    def rope_sections(self, shape: "LlmShape") -> list[int]:
        """11, 11, 10 of heads of 256."""
        pairs = shape.head // 8
        return [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0]

    def layer(self, shape: "LlmShape", i: int) -> Sizes:
        """Attention has a gate as wide as its queries."""
        sizes = feed_forward(shape, shape.feed_forward)
        sizes |= {"attn_norm.weight": (shape.width,), "post_attention_norm.weight": (shape.width,)}
        if (i + 1) % self.interval == 0:
            gated = {"attn_q.weight": (2 * shape.heads * shape.head, shape.width)}
            return sizes | attention(shape, shape.head) | gated | norms(shape.head)
        inner = self.value_heads * self.state
        mixed = 2 * self.key_heads * self.state + inner
        return sizes | {
            "attn_qkv.weight": (mixed, shape.width),
            "attn_gate.weight": (inner, shape.width),
            "ssm_conv1d.weight": (mixed, 4),
            "ssm_dt.bias": (self.value_heads,),
            "ssm_a": (self.value_heads,),
            "ssm_alpha.weight": (self.value_heads, shape.width),
            "ssm_beta.weight": (self.value_heads, shape.width),
            "ssm_norm.weight": (self.state,),
            "ssm_out.weight": (shape.width, inner),
        }

    def cached(self, shape: "LlmShape") -> int:
        """Of the layers with attention."""
        return Decoder.cached(self, shape) // self.interval


@dataclass(frozen=True, slots=True)
class ShortConvolutions(Decoder):
    """LFM2: short convolutions, and attention in some layers.

    Attributes:
        attention: those layers.
    """

    attention: tuple[int, ...] = (2, 5, 8, 10, 12, 14)

    def architecture(self, shape: "LlmShape") -> str:
        """llama.cpp's name."""
        return "lfm2"

    def settings(self, writer: Any, shape: "LlmShape") -> None:
        """A layer without KV heads is a convolution."""
        writer.add_head_count_kv([shape.kv_heads if i in self.attention else 0 for i in range(shape.layers)])
        writer.add_feed_forward_length(shape.feed_forward)
        writer.add_rope_freq_base(1e6)
        writer.add_vocab_size(shape.vocabulary)
        writer.add_shortconv_l_cache(3)

    def outside(self, shape: "LlmShape") -> Sizes:
        """Its last norm has a name of its own."""
        return {"token_embd.weight": (shape.vocabulary, shape.width), "token_embd_norm.weight": (shape.width,)}

    def layer(self, shape: "LlmShape", i: int) -> Sizes:
        """One of two kinds."""
        width = shape.width
        sizes = {**feed_forward(shape, shape.feed_forward), "attn_norm.weight": (width,), "ffn_norm.weight": (width,)}
        if i in self.attention:
            return sizes | attention(shape, shape.head) | norms(shape.head)
        return sizes | {
            "shortconv.conv.weight": (width, 3),
            "shortconv.in_proj.weight": (3 * width, width),
            "shortconv.out_proj.weight": (width, width),
        }

    def cached(self, shape: "LlmShape") -> int:
        """Of the layers with attention."""
        return 2 * len(self.attention) * shape.kv_heads * shape.head


@dataclass(frozen=True, slots=True)
class PerLayerInputs(Decoder):
    """Gemma 4 E2B and E4B: windowed layers with smaller heads, late layers without keys, an input for each layer.

    Attributes:
        interval: every how many layers one sees everything; its heads have the shape's width, the others' half of it.
        shared: layers, the last ones, that read the keys and values of those before them.
        wide: whether their feed-forward is twice as wide.
        inputs: floats of a token's input to each layer.
        window: tokens that the other layers see.
    """

    interval: int = 5
    shared: int = 20
    wide: bool = True
    inputs: int = 256
    window: int = 512

    def architecture(self, shape: "LlmShape") -> str:
        """llama.cpp's name."""
        return "gemma4"

    def settings(self, writer: Any, shape: "LlmShape") -> None:
        """Two kinds of heads and of positions."""
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_feed_forward_length([self._feed_forward(shape, i) for i in range(shape.layers)])
        writer.add_rope_freq_base(1e6)
        writer.add_rope_freq_base_swa(1e4)
        writer.add_rope_dimension_count(shape.head)
        writer.add_rope_dimension_count_swa(shape.head // 2)
        writer.add_key_length(shape.head)
        writer.add_value_length(shape.head)
        writer.add_key_length_swa(shape.head // 2)
        writer.add_value_length_swa(shape.head // 2)
        writer.add_sliding_window(self.window)
        writer.add_sliding_window_pattern([self._windowed(i) for i in range(shape.layers)])
        writer.add_shared_kv_layers(self.shared)
        writer.add_embedding_length_per_layer_input(self.inputs)
        writer.add_final_logit_softcapping(30.0)

    def outside(self, shape: "LlmShape") -> Sizes:
        """The second table is the larger one."""
        every = shape.layers * self.inputs
        return {
            **Decoder.outside(self, shape),
            "rope_freqs.weight": (shape.head // 2,),
            "per_layer_token_embd.weight": (shape.vocabulary, every),
            "per_layer_model_proj.weight": (every, shape.width),
            "per_layer_proj_norm.weight": (self.inputs,),
        }

    def layer(self, shape: "LlmShape", i: int) -> Sizes:
        """Late layers have queries only."""
        head = shape.head // 2 if self._windowed(i) else shape.head
        sizes = {**attention(shape, head), **norms(head), **feed_forward(shape, self._feed_forward(shape, i))}
        if self._shares(shape, i):
            for name in ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight"):
                del sizes[name]
        layer_norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm")
        return sizes | {
            **{f"{name}.weight": (shape.width,) for name in layer_norms},
            "inp_gate.weight": (self.inputs, shape.width),
            "proj.weight": (shape.width, self.inputs),
            "layer_output_scale.weight": (1,),
        }

    def cached(self, shape: "LlmShape") -> int:
        """As if windowed layers kept everything."""
        owners = range(shape.layers - self.shared)
        return sum(shape.kv_heads * shape.head * (1 if self._windowed(i) else 2) for i in owners)

    def _windowed(self, i: int) -> bool:
        return (i + 1) % self.interval > 0

    def _shares(self, shape: "LlmShape", i: int) -> bool:
        return i >= shape.layers - self.shared

    def _feed_forward(self, shape: "LlmShape", i: int) -> int:
        return shape.feed_forward * (2 if self.wide and self._shares(shape, i) else 1)


def attention(shape: "LlmShape", head: int) -> Sizes:
    """Its four products."""
    queries, kv = shape.heads * head, shape.kv_heads * head
    return {
        "attn_q.weight": (queries, shape.width),
        "attn_k.weight": (kv, shape.width),
        "attn_v.weight": (kv, shape.width),
        "attn_output.weight": (shape.width, queries),
    }


def norms(head: int) -> Sizes:
    """Of queries and keys."""
    return {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}


def feed_forward(shape: "LlmShape", inner: int) -> Sizes:
    """Gated."""
    return {
        "ffn_gate.weight": (inner, shape.width),
        "ffn_up.weight": (inner, shape.width),
        "ffn_down.weight": (shape.width, inner),
    }
