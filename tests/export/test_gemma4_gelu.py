"""Where llama.cpp and transformers part in Gemma 4: ggml reads GELU from a table in half precision."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

from newer_cases import half_gelu  # noqa: E402

from score_edge.export.gguf_model import write_gguf  # noqa: E402
from score_edge.runtime.language.llama_cpp import LlamaCpp  # noqa: E402

TEXTS = (
    "<bos>What moved?",
    "<bos>The red ball moved to the left, then it stopped. What moved in the video?",
    "<bos>Describe the colour, the shape and the direction of what moved first. A blue square appeared for two steps.",
)


def test_all_of_it_is_the_gelu(gemma4_case: Any, tmp_path: Path) -> None:
    """transformers' float32 is its float64, so llama.cpp is what is off; hardly, once both have the table."""
    model, tokenizer = gemma4_case.model, gemma4_case.tokenizer
    path = write_gguf(model, tokenizer, tmp_path / "llm.gguf", dtype="f32")
    exact = copy.deepcopy(model).double()
    apart: dict[str, list[float]] = {"transformers": [], "llama.cpp": [], "llama.cpp, both with the table": []}
    for text in TEXTS:
        with LlamaCpp(path, context=256, threads=1, cache="f32") as llama:
            sequence = llama.sequence()
            sequence.append(text)
            found = sequence.logits()
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
        precise = logits(exact, ids)
        with half_gelu(model):
            rounded = logits(model, ids)
        for name, one, other in zip(
            apart, (logits(model, ids), found, found), (precise, precise, rounded), strict=True
        ):
            apart[name].append(float(np.abs(one - other).max()))
    print(apart)
    transformers, plain, table = (np.mean(each) for each in apart.values())
    assert transformers <= 1e-5 and plain > 1e-3
    # Not nothing: a difference of 1e-7 can be the next entry of the table.
    assert table <= 0.5 * plain


def logits(model: Any, ids: Any) -> np.ndarray:
    with torch.no_grad():
        row: np.ndarray = model(input_ids=ids, use_cache=False).logits[0, -1].double().numpy()
    return row
