"""The trained reference model as a bundle: the encoder as ONNX, the decoder as GGUF."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.errors import ScoreEdgeError, require
from score_edge.export.gguf_model import named_tensors, write_gguf
from score_edge.export.incremental import INCREMENTAL, export_incremental
from score_edge.export.onnx_export import export_onnx
from score_edge.learning.reference_model import (
    CONTEXT,
    GRID,
    HALF,
    MERGE,
    PATCH,
    build_model,
    reading_weights,
    step_encoder,
)
from score_edge.reference import world
from score_edge.reference.tokenizer import PROMPT_AFTER, PROMPT_BEFORE, build_tokenizer

CHANGE = 8.0
"""Grey levels; docs/incremental.md says what more would cost."""
TRAINED = 24
"""Positions: what stands much further behind the prompt is answered worse (tools/far_from_prompt.py)."""


def read_reference_bundle(bundle: Bundle) -> dict[str, torch.Tensor]:
    """The weights of a reference bundle, to train on from: the encoder's as they were, the decoder's in float16.

    Raises:
        ScoreEdgeError: it is the bundle of another model.
    """
    onnx = require("onnx", "export")
    model = build_model()
    graph = onnx.load(bundle.paths["encoder.onnx"]).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    _fill(bundle, found, [(f"visual.{name}", tensor) for name, tensor in model.model.visual.state_dict().items()])
    _fill(bundle, _language_weights(bundle), named_tensors(model))
    return dict(model.state_dict())


def read_reference_decoder(bundle: Bundle) -> Qwen2VLForConditionalGeneration:
    """The reference model with the decoder of a bundle; its vision encoder is as it starts.

    Raises:
        ScoreEdgeError: it is the bundle of another model.
    """
    model = build_model()
    _fill(bundle, _language_weights(bundle), named_tensors(model))
    return model


def _language_weights(bundle: Bundle) -> dict[str, Any]:
    """Arrays of the GGUF by name."""
    reader = require("gguf", "export").GGUFReader(bundle.gguf_path)
    return {tensor.name: tensor.data for tensor in reader.tensors}


def _fill(bundle: Bundle, found: Mapping[str, Any], wanted: Iterable[tuple[str, torch.Tensor]]) -> None:
    for name, tensor in wanted:
        if name not in found or found[name].shape != tuple(tensor.shape):
            shape = tuple(tensor.shape)
            raise ScoreEdgeError(f"{bundle.folder} holds no {name} of shape {shape}: it is no reference bundle")
        tensor.data.copy_(torch.from_numpy(found[name].astype("float32")))


def write_reference_bundle(weights: Path, folder: Path, *, overwrite: bool = False) -> Bundle:
    """Export the trained weights and write the bundle `reference`, without a policy: `train policy` adds one.

    Args:
        weights: model.safetensors of the reference training.
        folder: the bundle to write.
        overwrite: replace a bundle that is there.
    """
    model = build_model()
    with reading_weights(weights):
        model.load_state_dict(load_file(weights))
    model.eval()
    width = model.config.text_config.hidden_size
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / name for name in ("encoder.onnx", "llm.gguf")}
        example = torch.randn((GRID * MERGE) ** 2, 3 * world.FRAMES_PER_STEP * PATCH**2)
        encoder = step_encoder(model)
        export_onnx(encoder, {"patches": example}, "tokens", files["encoder.onnx"])
        write_gguf(model, build_tokenizer(), files["llm.gguf"], dtype="f16", name="score-edge reference")
        vision = Vision(
            graph=FileRef("encoder.onnx"),
            height=world.SIZE,
            width=world.SIZE,
            patch=PATCH,
            merge=MERGE,
            frames_per_step=world.FRAMES_PER_STEP,
            mean=HALF,
            std=HALF,
            resample="bicubic",
            fps=world.FPS,
            dim=width,
            grid=(GRID, GRID),
            threshold=CHANGE,
            incremental=encoder.cache(),
        )
        files[INCREMENTAL.file] = Path(scratch) / INCREMENTAL.file
        export_incremental(encoder, vision, files[INCREMENTAL.file])
        manifest = Manifest(
            name="reference",
            family="qwen2_vl",
            vision=vision,
            selector=Selection("last-kept", None, retention=0.1),
            language=Language("mrope", CONTEXT, width, FileRef("llm.gguf"), trained=TRAINED),
            prompt=Prompt(PROMPT_BEFORE, PROMPT_AFTER),
            provenance=Provenance.now("score-edge train reference", "torch", "transformers", "onnx", "gguf"),
        )
        return write_bundle(folder, manifest, files, overwrite=overwrite)
