"""The reference model: real Qwen2-VL classes in a small configuration."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from score_edge.errors import ScoreEdgeError
from score_edge.export.checkpoint import first_line
from score_edge.export.qwen2_vl import StepEncoder
from score_edge.reference import world
from score_edge.reference.labels import LOOK_BACK
from score_edge.reference.tokenizer import build_tokenizer
from score_edge.runtime.preprocess import Preprocessing

PATCH, MERGE = 8, 2
GRID = world.SIZE // (PATCH * MERGE)  # visual tokens per side
CONTEXT = 32768
HALF = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(world.SIZE, world.SIZE, PATCH, MERGE, world.FRAMES_PER_STEP, mean=HALF, std=HALF)

# M-RoPE gives time the highest frequencies and columns the lowest. At the usual 10,000 and heads of 32, neighbouring
# columns lie 0.003 rad apart, which no attention head can tell; at 5 every pair turns so fast that a question no longer
# finds a token by its content at any distance. 100 leaves 0.56 to 0.24 rad to the rows, 0.18 and less to the columns.
ROPE_THETA = 100.0
MROPE_SECTION = (2, 4, 10)  # pairs of a head for time, rows and columns

# A third of the attention of the first layer starts as "the same cell, that many steps before". Nothing else lets a
# slow drift be learned: from one step to the next it is less than the camera's shake.
SAME_CELL_LAGS = (LOOK_BACK, 4, 2)
SHARPNESS = 4.0  # by how much a neighbouring cell's attention logit is lower


def build_model() -> Qwen2VLForConditionalGeneration:
    """A freshly initialised reference model, about 2 M parameters."""
    tokenizer = build_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    end, pad = token("<|im_end|>"), token("<|endoftext|>")
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": list(MROPE_SECTION)},
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": pad,
        },
        vision_config={
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 192,
            "num_heads": 3,
            "mlp_ratio": 3,
            "hidden_act": "gelu",
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": world.FRAMES_PER_STEP,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2VLForConditionalGeneration(config)
    model.model.language_model.embed_tokens.weight.data.normal_(std=0.5)  # the scale of the visual tokens
    # A third of the patch filters start as differences between the two frames of a step. From filters that all start at
    # random the encoder learns where things are and never how they move.
    filters = model.model.visual.patch_embed.proj.weight.data
    filters[: len(filters) // 3, :, 1] = -filters[: len(filters) // 3, :, 0]
    _start_with_same_cell_heads(model.model.language_model.layers[0].self_attn)
    return model


def _start_with_same_cell_heads(attention: Any) -> None:
    """Give the heads of the first key group no content, and biases that RoPE turns into a look at one place.

    A pair of biases q and k of length a, the query's turned back by lag * f, meets as a² cos(f * (distance - lag)).
    """
    time, rows, columns = MROPE_SECTION
    pairs = time + rows + columns
    turn = ROPE_THETA ** -(torch.arange(pairs) / pairs)  # rad per position
    weight = torch.full((pairs,), SHARPNESS / 2)
    for axis in (slice(time, time + rows), slice(time + rows, pairs)):
        weight[axis] = SHARPNESS / (1 - turn[axis].cos()).sum()
    length = (weight * math.sqrt(2 * pairs)).sqrt()
    query, key = attention.q_proj, attention.k_proj
    for projection, heads in ((query, len(SAME_CELL_LAGS)), (key, 1)):
        projection.weight.data[: heads * 2 * pairs] = 0
        projection.bias.data[: heads * 2 * pairs] = 0
    key.bias.data[:pairs] = length
    for head, lag in enumerate(SAME_CELL_LAGS):
        angle = torch.where(torch.arange(pairs) < time, -lag * turn, 0)
        start = head * 2 * pairs
        query.bias.data[start : start + pairs] = length * angle.cos()
        query.bias.data[start + pairs : start + 2 * pairs] = length * angle.sin()


def step_encoder(model: Qwen2VLForConditionalGeneration) -> StepEncoder:
    """The model's own encoder for one step of the world."""
    return StepEncoder(model.model.visual, GRID * MERGE, GRID * MERGE)


@contextlib.contextmanager
def reading_weights(what: object) -> Iterator[None]:
    """Files of a training run may be damaged, or of another model.

    Args:
        what: the file, or what else to call it.

    Raises:
        ScoreEdgeError: they are.
    """
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ScoreEdgeError(  # of a list of tensors its beginning
            f"{what} cannot be used: damaged, or of another model ({first_line(error):.200})",
            "put it back from a copy, or train in another folder",
        ) from error
