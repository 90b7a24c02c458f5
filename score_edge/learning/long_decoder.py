"""The reference model's decoder for long training batches: the modules of transformers, attention in two parts.

Everything before the questions is plainly causal, which needs no mask and a third of the time; only the text rows need
one, because the questions of a clip must not see each other.
"""

from typing import Any

import torch
from torch.nn import functional

from score_edge.learning.batches import Batch
from score_edge.learning.reference_model import MROPE_SECTION, ROPE_THETA


def decode(model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, L, D) hidden states: behind the first layer, half-way and at the end, as `batches.hidden_states` gives them.

    Args:
        model: a reference model.
        batch: of `long_clips.batch_of`.
    """
    decoder = model.model.language_model
    hidden, states = batch.embeds, []
    turn = _rotation(batch.positions)
    for layer in decoder.layers:
        hidden = hidden + _attend(layer.self_attn, _norm(layer.input_layernorm, hidden), turn, batch)
        hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
        states.append(hidden)
    return states[0], states[len(states) // 2 - 1], _norm(decoder.norm, hidden)


def _attend(attention: Any, hidden: torch.Tensor, turn: tuple[torch.Tensor, ...], batch: Batch) -> torch.Tensor:
    start, size = batch.visual.stop, attention.head_dim
    q, k, v = (
        projection(hidden).unflatten(-1, (-1, size)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = (_turned(x, *turn) for x in (q, k))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    q, k = q.to(v.dtype), k.to(v.dtype)
    video = slice(None), slice(None), slice(start)
    before = functional.scaled_dot_product_attention(q[video], k[video], v[video], is_causal=True)
    text = functional.scaled_dot_product_attention(q[:, :, start:], k, v, attn_mask=batch.mask)
    mixed: torch.Tensor = attention.o_proj(torch.cat([before, text], dim=2).transpose(1, 2).flatten(2))
    return mixed


def _norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotation(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 1, L, head size) cos and sin of positions (3, B, L): each pair of a head turns with its own axis."""
    pairs = sum(MROPE_SECTION)
    axes = torch.repeat_interleave(torch.arange(3), torch.tensor(MROPE_SECTION)).to(positions.device)
    speed = ROPE_THETA ** -(torch.arange(pairs, device=positions.device) / pairs)
    angle = (positions[axes].float() * speed[:, None, None]).permute(1, 2, 0)[:, None].repeat(1, 1, 1, 2)
    return angle.cos(), angle.sin()


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
