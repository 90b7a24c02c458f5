"""What an answer was computed on: provider and precision of the encoder, backend of the language model, and why."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from score_edge.bundle.manifest import Manifest
from score_edge.runtime.graphs.base import Graph
from score_edge.runtime.graphs.cuda_driver import cuda_devices
from score_edge.runtime.language.base import LanguageModel
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline

_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class RunsOn:
    """Where the work is done.

    Attributes:
        encoder: provider of the vision encoder, ``"CPU"``, ``"CUDA"`` or ``"TensorRT 10.3.0"``.
        precision: of the encoder: fp32, fp16, int8 or int8-cpu.
        language: backend of the language model.
        fallbacks: where this machine has a GPU that is not used, by part why; else empty.
    """

    encoder: str
    precision: str
    language: str
    fallbacks: dict[str, str]

    @property
    def providers(self) -> dict[str, str]:
        """By part of the model what runs it, in one line each."""
        why = {part: f"; not the GPU: {reason}" for part, reason in self.fallbacks.items()}
        return {
            "encoder": f"{self.encoder}, {self.precision}{why.get('encoder', '')}",
            "language model": f"{self.language}{why.get('language model', '')}",
        }

    def __str__(self) -> str:
        return " · ".join(f"{part} on {what}" for part, what in self.providers.items())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dataclasses.asdict(self)


def describe_pipeline(pipeline: Pipeline) -> RunsOn:
    """Of a pipeline that is open."""
    return describe(pipeline.bundle.manifest, pipeline.encoder, pipeline.skipped_providers, pipeline.model)


def describe(manifest: Manifest, encoder: Graph, skipped: dict[str, str], model: LanguageModel) -> RunsOn:
    """Of the parts.

    Args:
        manifest: of the bundle.
        encoder: opened.
        skipped: by provider, why it does not run the encoder, as `open_graph` says.
        model: the language model.
    """
    language, offloads = _language(model)
    fallbacks = {}
    if not isinstance(cuda_devices(), str):
        if encoder.provider == _CPU:
            fallbacks["encoder"] = "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "--provider cpu"
        if not offloads:
            fallbacks["language model"] = "llama.cpp was built without it, `score-edge doctor` has the command"
    return RunsOn(
        encoder=encoder.provider.removesuffix("ExecutionProvider"),
        precision=getattr(encoder, "precision", "") or manifest.encoder_precision,
        language=language,
        fallbacks=fallbacks,
    )


def _language(model: LanguageModel) -> tuple[str, bool]:
    """The backend's name, and whether it uses a GPU where there is one."""
    if not isinstance(model, LlamaCpp):
        return type(model).__name__, True
    from score_edge.runtime.language.llama_library import library

    offloads = bool(library().llama_supports_gpu_offload())
    return ("llama.cpp, GPU" if offloads and not isinstance(cuda_devices(), str) else "llama.cpp, CPU"), offloads
