"""A LoRA beside a GGUF, and files that are none: llama.cpp ends the process on some of them."""

import copy
import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.bundle.folder import Bundle, write_bundle
from score_edge.bundle.manifest import FileRef
from score_edge.doctor.inspection import check_model, describe
from score_edge.errors import ScoreEdgeError
from score_edge.runtime.language.backends import open_language_model
from score_edge.runtime.language.llama_cpp import LlamaCpp

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
torch = pytest.importorskip("torch")

RANK, ALPHA = 2, 3.0
TEXT = "What moved in the video?"


def logits(path: Path, adapter: Path | None = None) -> np.ndarray:
    with LlamaCpp(path, context=256, threads=1, cache="f32", adapter=adapter) as model:
        sequence = model.sequence()
        sequence.append(TEXT)
        found: np.ndarray = sequence.logits()
    return found


@pytest.fixture(scope="module")
def matrices(qwen2_vl: Any) -> dict[str, tuple[Any, Any]]:
    """Of some layers, not of all."""
    random = torch.Generator().manual_seed(0)
    found = {}
    for name, layer in qwen2_vl.model.get_decoder().named_modules():
        if name.endswith(("1.self_attn.q_proj", "0.self_attn.o_proj", "2.mlp.down_proj")):
            outputs, inputs = layer.weight.shape
            a, b = torch.randn(RANK, inputs, generator=random), torch.randn(outputs, RANK, generator=random)
            found[name] = (0.1 * a, 0.3 * b)
    assert len(found) == 3
    return found


@pytest.fixture(scope="module")
def adapter(qwen2_vl: Any, matrices: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from score_edge.export.gguf_adapter import write_adapter

    path = tmp_path_factory.mktemp("adapter") / "adapter.gguf"
    return write_adapter(qwen2_vl.model.get_decoder().config, matrices, path, alpha=ALPHA)


def test_it_is_as_if_it_were_merged(
    qwen2_vl: Any, gguf_files: dict[str, Path], matrices: Any, adapter: Path, tmp_path: Path
) -> None:
    from score_edge.export.gguf_model import write_gguf

    merged = copy.deepcopy(qwen2_vl.model)
    for name, (a, b) in matrices.items():
        merged.get_decoder().get_submodule(name).weight.data += ALPHA / RANK * b @ a
    expected = logits(write_gguf(merged, qwen2_vl.tokenizer, tmp_path / "merged.gguf", dtype="f32"))
    assert np.abs(logits(gguf_files["f32"], adapter) - expected).max() <= 1e-3
    assert np.abs(logits(gguf_files["f32"]) - expected).max() > 0.1


def test_beside_a_bundle(gguf_files: dict[str, Path], adapter: Path, tmp_path: Path) -> None:
    """What is in a bundle is what runs, and is one of its files: named, hashed, copied."""
    old = Bundle.open("reference")
    from score_edge.export.gguf_adapter import write_adapter
    from score_edge.learning.reference_model import build_model

    decoder = build_model().get_decoder()
    random = torch.Generator().manual_seed(1)
    found = {
        f"layers.{i}.mlp.up_proj": (torch.randn(RANK, 192, generator=random), torch.randn(384, RANK, generator=random))
        for i in range(4)
    }
    path = write_adapter(decoder.config, found, tmp_path / "new.gguf", alpha=ALPHA)
    manifest = dataclasses.replace(
        old.manifest, language=dataclasses.replace(old.manifest.language, adapter=FileRef("adapter.gguf"))
    )
    bundle = write_bundle(tmp_path / "bundle", manifest, {**old.paths, "adapter.gguf": path})
    assert "language.adapter" in Bundle.open(bundle.folder).manifest.files and old.adapter_path is None

    def said(given: Bundle) -> np.ndarray:
        with open_language_model(given, context=64, threads=1) as model:  # type: ignore[attr-defined]
            sequence = model.sequence()
            sequence.append(TEXT)
            return np.array(sequence.logits())

    assert np.abs(said(bundle) - logits(old.gguf_path, path)).max() < 0.05 < np.abs(said(bundle) - said(old)).max()
    with pytest.raises(ScoreEdgeError, match="TensorRT-LLM takes none beside its engine"):
        open_language_model(bundle, "tensorrt-llm:engine")
    assert describe(bundle)["language"]["adapter"] == "adapter.gguf" and describe(old)["language"]["adapter"] is None
    check_model(bundle)
    broken = write_bundle(tmp_path / "broken", manifest, {**old.paths, "adapter.gguf": path.read_bytes()[:-1]})
    with pytest.raises(ScoreEdgeError, match="cut off"):
        check_model(broken)
    (bundle.folder / "adapter.gguf").write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ScoreEdgeError, match=r"language\.adapter: .*adapter\.gguf"):
        Bundle.open(bundle.folder)


def written(path: Path, *, tensors: dict[str, np.ndarray] | None = None, **values: Any) -> Path:
    """A small adapter; `values` take the place of its metadata by name, None leaves one out."""
    writer = gguf.GGUFWriter(path, values.pop("architecture", "qwen2vl"))
    settings = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0, **values}
    for key, value in settings.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    ones = {"lora_a": np.ones((2, 128), np.float32), "lora_b": np.ones((128, 2), np.float32)}
    for name, tensor in (tensors or {f"blk.0.attn_q.weight.{part}": each for part, each in ones.items()}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


Q = "blk.0.attn_q.weight"
A, B = np.ones((2, 128), np.float32), np.ones((128, 2), np.float32)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "cannot mmap an empty file"),
        (lambda path: path.write_bytes(b"no adapter at all" * 9), "no GGUF"),
        (lambda path: path.write_bytes(written(path).read_bytes()[:-300]), "cut off in"),
        (lambda path: path.write_bytes(written(path).read_bytes()[:90]), "no complete GGUF"),
        (lambda path: path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60)), "no complete GGUF"),
        (lambda path: path.mkdir(), "there is no adapter"),
        (lambda path: written(path, **{"general.type": "model"}), "general.type is 'model'"),
        (lambda path: written(path, **{"general.type": 7}), "general.type is 7"),
        (lambda path: written(path, **{"adapter.type": None}), "adapter.type is None"),
        (lambda path: written(path, **{"adapter.lora.alpha": 3}), "alpha is 3"),
        (lambda path: written(path, **{"adapter.lora.alpha": float("nan")}), "alpha is nan"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A}), "missing one component"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A, f"{Q}.lora_b": B[:9]}), "incorrect shape"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A[:1], f"{Q}.lora_b": B}), "not transposed"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A[None], f"{Q}.lora_b": B}), "no part of a LoRA"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A * np.inf, f"{Q}.lora_b": B}), "not finite"),
        (lambda path: written(path, tensors={f"{Q}.lora_a": A.astype("i4"), f"{Q}.lora_b": B}), "of a kind"),
        (
            lambda path: written(path, tensors={"blk.9.attn_q.weight.lora_a": A, "blk.9.attn_q.weight.lora_b": B}),
            "blk.9",
        ),
        (lambda path: written(path, tensors={"blk.0.attn_norm.weight": A[0]}), "no part of a LoRA"),
        (
            lambda path: written(path, tensors={"token_embd.weight.lora_a": A, "token_embd.weight.lora_b": B}),
            "of a kind",
        ),
        (lambda path: written(path, architecture="llama"), "arch mismatch"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_a_message(
    make: Callable[[Path], Any], said: str, gguf_files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "adapter.gguf"
    make(path)
    with pytest.raises(ScoreEdgeError, match=said) as caught:
        LlamaCpp(gguf_files["f32"], context=64, threads=1, adapter=path)
    assert str(path) in caught.value.message and "train adapter" in caught.value.hint


def test_the_smallest_one_is_taken(gguf_files: dict[str, Path], tmp_path: Path) -> None:
    assert np.isfinite(logits(gguf_files["f32"], written(tmp_path / "adapter.gguf"))).all()
