"""Which backend runs a bundle's language model: one name in a small table."""

from collections.abc import Callable
from typing import NamedTuple

from score_edge.bundle.external import check_rope
from score_edge.bundle.folder import Bundle
from score_edge.errors import ScoreEdgeError, did_you_mean
from score_edge.runtime.language.base import LanguageModel

DEFAULT = "llama.cpp"


class _Wish(NamedTuple):
    """What is asked of a backend; cells per sequence."""

    folder: str
    context: int
    sequences: int
    threads: int | None


def open_language_model(
    bundle: Bundle,
    backend: str = DEFAULT,
    *,
    context: int | None = None,
    sequences: int = 1,
    threads: int | None = None,
) -> LanguageModel:
    """Open a bundle's language model.

    Args:
        bundle: whose GGUF llama.cpp runs.
        backend: ``llama.cpp``, or ``tensorrt-llm:FOLDER`` with an engine or a checkpoint of the same model.
        context: KV cells of a sequence; None takes the bundle's.
        sequences: how many there may be at a time.
        threads: CPU threads; None lets the backend choose.

    Raises:
        ScoreEdgeError: no such backend, it is not installed, or the model does not fit the bundle's
            encoder or its positions.
    """
    name, _, folder = backend.partition(":")
    if name not in _BACKENDS:
        raise ScoreEdgeError(f"there is no language backend {name!r}", did_you_mean(name, _BACKENDS))
    model = _BACKENDS[name](bundle, _Wish(folder, context or bundle.manifest.language.context, sequences, threads))
    try:
        check_rope(bundle.manifest, model.capabilities.keeps_positions)
    except ScoreEdgeError:
        model.close()
        raise
    width, made = model.capabilities.width, bundle.manifest.vision.dim
    if width != made:
        model.close()
        raise ScoreEdgeError(
            f"the language model takes rows of {width}, the encoder makes {made}",
            "this language model belongs to another encoder: export the bundle again",
        )
    return model


def _llama_cpp(bundle: Bundle, wish: _Wish) -> LanguageModel:
    from score_edge.runtime.language.llama_cpp import LlamaCpp

    return LlamaCpp(
        bundle.gguf_path,
        context=wish.context,
        sequences=wish.sequences,
        threads=wish.threads,
        adapter=bundle.adapter_path,
    )


def _tensorrt_llm(bundle: Bundle, wish: _Wish) -> LanguageModel:
    from score_edge.runtime.language.tensorrt_llm import TensorRtLlm

    if not wish.folder:
        raise ScoreEdgeError(
            "TensorRT-LLM needs the folder of an engine or a checkpoint", "--backend tensorrt-llm:FOLDER"
        )
    if bundle.adapter_path is not None:
        raise ScoreEdgeError(
            f"{bundle.folder} has an adapter, and TensorRT-LLM takes none beside its engine",
            "build the engine from the checkpoint with the adapter merged (docs/adapter.md), and name the bundle that "
            "the adapter was learned for",
        )
    return TensorRtLlm(wish.folder, context=wish.context)


_BACKENDS: dict[str, Callable[[Bundle, _Wish], LanguageModel]] = {
    DEFAULT: _llama_cpp,
    "tensorrt-llm": _tensorrt_llm,
}
