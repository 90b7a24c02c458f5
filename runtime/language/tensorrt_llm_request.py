"""What TensorRT-LLM is handed for a pruned video, as arrays; no torch and no TensorRT-LLM in here.

An engine knows rows only by ids beyond its vocabulary ("fake ids") that point into a prompt table. Reusing KV blocks
between questions is sound only if a block's key tells two videos apart, so every fake id comes with a hash of its row,
its place and the grid.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from score_edge.core import Float32, Int32
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.base import Rows


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """What of a model's configuration a request needs.

    Attributes:
        width: floats per embedding row.
        vocabulary: ids from here on are fake.
        context: tokens of a prompt that fit.
        positions: rows the rotation table of an engine has.
        sections: of M-RoPE; empty for plain RoPE.
        dtype: of the engine, for example "float16".
        table: rows that fit into an engine's prompt table; None where there is none.
        image_token: id of the placeholder, where the configuration names one.
        cell_bytes: of one token in a half-precision KV cache.
    """

    width: int
    vocabulary: int
    context: int
    positions: int
    head: int
    theta: float
    sections: tuple[int, ...]
    dtype: str
    table: int | None
    image_token: int | None
    cell_bytes: int


def read_engine_config(folder: Path) -> LlmConfig:
    """Of a folder that trtllm-build wrote.

    Raises:
        ScoreEdgeError: it is none, or was built without room for visual tokens.
    """
    document = _read_json(folder / "config.json")
    try:
        model, build = document["pretrained_config"], document["build_config"]
        scaling = model.get("rotary_scaling") or {}
        table = int(build.get("max_prompt_embedding_table_size") or build.get("max_multimodal_len") or 0)
        config = _config(
            model,
            theta=float(model.get("rotary_base", 10_000.0)),
            sections=scaling.get("mrope_section") or (),
            context=min(int(build["max_seq_len"]), int(build.get("max_input_len") or build["max_seq_len"])),
            table=table,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScoreEdgeError(
            f"{folder / 'config.json'} is not of a TensorRT-LLM engine: {error!r}", "build it with trtllm-build"
        ) from error
    if not table:
        raise ScoreEdgeError(
            f"the engine in {folder} has no room for visual tokens", "build it with --max_multimodal_len 4096"
        )
    return config


def read_checkpoint_config(folder: Path, context: int) -> LlmConfig:
    """Of a Hugging Face checkpoint.

    Raises:
        ScoreEdgeError: it is none.
    """
    document = _read_json(folder / "config.json")
    try:
        text = document.get("text_config") or document
        rope = text.get("rope_scaling") or text.get("rope_parameters") or document.get("rope_scaling") or {}
        return _config(
            text,
            theta=float(text.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            sections=rope.get("mrope_section") or (),
            context=context,
            table=None,
            image_token=document.get("image_token_id"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ScoreEdgeError(
            f"{folder / 'config.json'} is not of a language model: {error!r}", "give the folder of its checkpoint"
        ) from error


def prompt_table(videos: Sequence[Rows], width: int) -> Float32:
    """(1, n, D) float32: the rows of every video, one task; row i answers to the fake id vocabulary + i.

    Raises:
        ScoreEdgeError: rows of another width, or such that are not finite.
    """
    rows = np.concatenate([np.zeros((0, width), np.float32), *_checked(videos, width)])
    return np.ascontiguousarray(rows[None])


def fake_ids(parts: Sequence[Int32 | Rows], vocabulary: int) -> Int32:
    """(L,) int32: text ids as they are, the n-th visual token as vocabulary + n."""
    ids, used = [], vocabulary
    for part in parts:
        if isinstance(part, Rows):
            ids.append(np.arange(used, used + len(part), dtype=np.int32))
            used += len(part)
        else:
            ids.append(np.asarray(part, np.int32))
    return np.concatenate([np.zeros(0, np.int32), *ids])


def placeholder_ids(parts: Sequence[Int32 | Rows], placeholder: int) -> Int32:
    """(L,) int32: text ids as they are, the same placeholder for every visual token, as the LLM API wants it."""
    ids = [
        np.full(len(part), placeholder, np.int32) if isinstance(part, Rows) else np.asarray(part, np.int32)
        for part in parts
    ]
    return np.concatenate([np.zeros(0, np.int32), *ids])


def extra_ids(parts: Sequence[Int32 | Rows]) -> list[int]:
    """L numbers that make keys of KV blocks differ where videos do: 0 for text, a hash for a visual token."""
    extra: list[int] = []
    for part in parts:
        if not isinstance(part, Rows):
            extra += [0] * len(part)
            continue
        about = str(part.extent).encode()  # where the text behind the video stands
        rows = np.ascontiguousarray(part.embeddings, np.float32)
        for row, place in zip(rows, np.ascontiguousarray(part.places, np.int32), strict=True):
            digest = hashlib.blake2b(about + place.tobytes() + row.tobytes(), digest_size=8).digest()
            extra.append(int.from_bytes(digest, "little") >> 1 or 1)  # 63 bits: it is signed on some paths
    return extra


def _checked(videos: Sequence[Rows], width: int) -> list[Float32]:
    for video in videos:
        if video.embeddings.ndim != 2 or video.embeddings.shape[1] != width:
            raise ScoreEdgeError(
                f"embedding rows of shape {video.embeddings.shape}, but the language model takes rows of {width}",
                "the encoder and the language model do not belong together",
            )
        if not np.isfinite(video.embeddings).all():
            raise ScoreEdgeError(
                "some visual tokens are not finite", "the encoder overflows: run it in FP32 or calibrate it again"
            )
    return [np.asarray(video.embeddings, np.float32) for video in videos]


def _config(
    model: dict[str, Any],
    *,
    theta: float,
    sections: Sequence[int],
    context: int,
    table: int | None,
    image_token: int | None = None,
) -> LlmConfig:
    width, heads = int(model["hidden_size"]), int(model["num_attention_heads"])
    head = int(model.get("head_size") or model.get("head_dim") or width // heads)
    kv_heads = int(model.get("num_key_value_heads") or heads)
    return LlmConfig(
        width=width,
        vocabulary=int(model["vocab_size"]),
        context=context,
        positions=int(model["max_position_embeddings"]),
        head=head,
        theta=theta,
        sections=tuple(int(part) for part in sections),
        dtype=str(model.get("dtype") or model.get("torch_dtype") or "float16"),
        table=table,
        image_token=image_token,
        cell_bytes=2 * int(model["num_hidden_layers"]) * kv_heads * head * 2,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScoreEdgeError(f"{path} cannot be read: {error.strerror}", "check the folder") from error
    except (ValueError, RecursionError) as error:
        raise ScoreEdgeError(f"{path} is not valid JSON: {error}", "copy or build the model again") from error
    if not isinstance(document, dict):
        raise ScoreEdgeError(f"{path} holds no configuration", "copy or build the model again")
    return document
