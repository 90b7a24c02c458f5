"""What `score-edge inspect` tells about a bundle."""

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

from score_edge.bundle.external import check_external, check_rope, model_parts
from score_edge.bundle.folder import MANIFEST, Bundle, check_shapes
from score_edge.errors import ScoreEdgeError
from score_edge.onnx_files.statistics import graph_stats
from score_edge.runtime.graphs.onnx_graph import OnnxGraph
from score_edge.runtime.language.adapter_file import check_adapter


def describe(bundle: Bundle) -> dict[str, Any]:
    """A bundle as plain JSON values: what it is, what fits into it, and what it weighs.

    ``seconds_unpruned`` and ``seconds_kept`` say how much video fits into the language model's context, prompt and
    answer aside, with all tokens and at the default retention.

    Example:
        >>> describe(Bundle.open("reference"))["vision"]["tokens_per_step"]  # doctest: +SKIP
        36
    """
    manifest = bundle.manifest
    vision, selector, language = manifest.vision, manifest.selector, manifest.language
    tokens = vision.token_grid.tokens
    tokens_per_second = tokens * vision.fps / vision.frames_per_step
    gguf = bundle.gguf_path
    inside = [{"file": ref.file, "bytes": ref.bytes, "sha256": ref.sha256} for ref in manifest.files.values()]
    return {
        "name": manifest.name,
        "family": manifest.family,
        "schema": manifest.schema,
        "folder": str(bundle.folder),
        "bytes": sum(ref.bytes for ref in manifest.files.values()),
        "vision": {
            "graph": vision.graph.file,
            "height": vision.height,
            "width": vision.width,
            "patch": vision.patch,
            "merge": vision.merge,
            "grid": list(vision.grid),
            "dim": vision.dim,
            "fps": vision.fps,
            "frames_per_step": vision.frames_per_step,
            "tokens_per_step": tokens,
            "tokens_per_second": tokens_per_second,
            "input": {vision.input_name: list(vision.input_shape)},
            "int8": dataclasses.asdict(vision.int8) if vision.int8 else None,
            "incremental": vision.incremental
            and {
                "graph": vision.incremental.graph.file,
                "layers": vision.incremental.layers,
                "threshold": vision.change_threshold,
                "bytes_per_source": vision.incremental.bytes_per_source,
            },
            **_encoder_cost(bundle.encoder_path, vision.frames_per_step),
        },
        "selector": {
            "name": selector.name,
            "policy": selector.policy.file if selector.policy else None,
            "query": selector.query.file if selector.query else None,
            "retention": selector.retention,
        },
        "language": {
            "gguf": str(gguf),
            "in_bundle": language.gguf is not None,
            "bytes": sum(part.stat().st_size for part in model_parts(gguf)),
            "parts": [dataclasses.asdict(part) for part in language.parts],
            "adapter": language.adapter.file if language.adapter else None,
            "positions": language.positions,
            "context": language.context,
            "dim": language.dim,
            "seconds_unpruned": language.context / tokens_per_second,
            "seconds_kept": language.context / tokens_per_second / selector.retention,
        },
        "prompt": dataclasses.asdict(manifest.prompt),
        "provenance": {
            "source": manifest.provenance.source,
            "created": manifest.provenance.created,
            "git_commit": manifest.provenance.git_commit,
            "versions": dict(manifest.provenance.versions),
        },
        "files": inside,
    }


def _encoder_cost(path: Path, frames_per_step: int) -> dict[str, Any]:
    """What the encoder is made of and costs; nothing where onnx is not installed, which a board does not need."""
    if importlib.util.find_spec("onnx") is None:
        return {}
    try:
        stats = graph_stats(path)
        return {**dataclasses.asdict(stats), "macs_per_frame": stats.macs / frames_per_step}
    except ScoreEdgeError:  # `check_graph_shapes` says what is wrong with it
        return {}


def check_model(bundle: Bundle) -> None:
    """Compare the bundle's language model with what bundle.json says of it: hash of a file outside, and RoPE; look
    whether its adapter is one.

    Reads the model's header; without llama.cpp the RoPE is left to whoever opens it.

    Raises:
        ScoreEdgeError: it is another file, or one that llama.cpp cannot read.
    """
    language = bundle.manifest.language
    if bundle.adapter_path is not None:
        check_adapter(bundle.adapter_path)
    check_external(language, bundle.folder / MANIFEST, checksums=True)
    if importlib.util.find_spec("llama_cpp") is None:
        return
    from score_edge.runtime.language.llama_library import library

    llama = library()
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(os.fsencode(bundle.gguf_path), params)
    if not model:
        raise ScoreEdgeError(f"llama.cpp cannot read {bundle.gguf_path}", "it is damaged, or needs a newer llama.cpp")
    try:
        keeps = llama.llama_model_rope_type(model) in (llama.LLAMA_ROPE_TYPE_MROPE, llama.LLAMA_ROPE_TYPE_IMROPE)
    finally:
        llama.llama_model_free(model)
    check_rope(bundle.manifest, keeps)


def check_graph_shapes(bundle: Bundle) -> None:
    """Load the graphs, which takes a moment for a large encoder, and compare their shapes with the manifest.

    Raises:
        ScoreEdgeError: a graph is damaged or does not fit.
    """
    for name, path in bundle.graphs.items():
        graph = OnnxGraph(path)
        check_shapes(bundle.manifest, name, graph.inputs, graph.outputs)
