"""A bundle of the size that people run: SigLIP-base and SmolLM2-360M, with random weights, for measuring time."""

import dataclasses
from pathlib import Path
from typing import Any

from score_edge.bundle.external import sealed_language
from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef, Incremental, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.errors import ScoreEdgeError
from score_edge.profiling.llm_shapes import llm_shape, shaped_gguf

HALF = (0.5, 0.5, 0.5)
VISION = Vision(FileRef("encoder.onnx"), 512, 512, 16, 4, 1, HALF, HALF, "lanczos", 1.0, 960, (8, 8), layout="pixels")
# What `export/smolvlm.py` makes of SmolVLM2's own chat template and processor.
PROMPT = Prompt(
    "<|im_start|>User: You are provided the following series of {frames} frames from a {duration} [H:MM:SS] video.\n",
    "\n\n{question}<end_of_utterance>\nAssistant:",
    "\nFrame from {clock}:<fake_token_around_image><global-img>{tokens}<fake_token_around_image>",
)


def siglip_encoder() -> Any:
    """SigLIP-base at 512 pixels with SmolVLM's connector, random weights."""
    import torch
    import transformers

    from score_edge.export.smolvlm import FrameEncoder

    text = {"model_type": "llama", "hidden_size": 960, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.SmolVLMConfig(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        text_config={**text, "num_attention_heads": 4, "vocab_size": 128, "pad_token_id": 0},
        scale_factor=4,
        pad_token_id=0,
        image_token_id=5,
    )
    torch.manual_seed(0)
    return FrameEncoder(transformers.SmolVLMForConditionalGeneration(config).eval().model, VISION)


def siglip_bundle(folder: Path) -> Path:
    """SigLIP-base at 512 pixels with SmolVLM's connector, a policy and a SmolLM2-360M, all with random weights."""
    llm = str(shaped_gguf(llm_shape("smollm2-360m")))
    if _is_current(folder, llm):
        return folder
    import torch

    from score_edge.export.incremental import export_incremental
    from score_edge.export.onnx_export import export_onnx
    from score_edge.export.policy_graph import PolicyNetwork, export_policy

    encoder = siglip_encoder()
    scratch = folder.with_name(f"{folder.name}-graphs")
    scratch.mkdir(parents=True, exist_ok=True)
    names = ("encoder.onnx", "incremental.onnx", "policy.onnx")
    plain, incremental, policy = (scratch / name for name in names)
    export_onnx(encoder, {"pixels": torch.randn(VISION.input_shape)}, "tokens", plain)
    export_incremental(encoder, VISION, incremental)
    export_policy(PolicyNetwork(VISION.dim), policy)
    cache = encoder.cache()
    incremental_graph = Incremental(FileRef(names[1]), cache.layers, cache.rows, cache.width)
    manifest = Manifest(
        name="siglip-smollm2-360m",
        family="smolvlm",
        vision=dataclasses.replace(VISION, incremental=incremental_graph),
        selector=Selection("score", FileRef(names[2]), 0.1),
        language=sealed_language(Language("plain", 8192, VISION.dim, path=llm)),
        prompt=PROMPT,
        provenance=Provenance.now("random weights of a known shape", "torch"),
    )
    write_bundle(folder, manifest, {name: scratch / name for name in names}, overwrite=True)
    return folder


def _is_current(folder: Path, llm: str) -> bool:
    """Whether a bundle lies there that this file, as it is now, would make."""
    try:
        made = Bundle.open(folder, checksums=False).manifest
    except ScoreEdgeError:
        return False
    vision = dataclasses.replace(made.vision, graph=VISION.graph, incremental=None)
    return (vision, made.prompt, made.language.path) == (VISION, PROMPT, llm)
