"""Files in the forms people have them: split and quantised GGUFs, sharded, tied and bfloat16 checkpoints."""

import copy
import ctypes
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.core import Frame
from score_edge.runtime.language.base import Rows
from score_edge.runtime.language.llama_cpp import LlamaCpp
from score_edge.runtime.pipeline import Pipeline

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from score_edge.export.bundle_export import export_bundle  # noqa: E402
from score_edge.export.gguf_check import Gguf, check_gguf  # noqa: E402
from score_edge.export.gguf_model import write_gguf  # noqa: E402

TEXT = "The red ball moved to the left, then it stopped."
QUANTISED = {"Q2_K": 10, "Q4_K_M": 15, "Q6_K": 18, "IQ4_NL": 25, "IQ3_S": 26, "IQ4_XS": 30, "BF16": 32}


@pytest.fixture(scope="module")
def plain(tokenizer: Any, randomize: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder wide enough for blocks of 256 weights."""
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = randomize(transformers.Qwen2ForCausalLM(config))
    return write_gguf(model, tokenizer, tmp_path_factory.mktemp("plain") / "plain.gguf", dtype="f32")


def split(path: Path, folder: Path, tensors: int) -> list[Path]:
    """The same model in parts of so many tensors, as llama.cpp's gguf-split names them."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(folder / "llm.gguf", "", split_max_tensors=tensors)
    writer.kv_data[0].clear()
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("llm-*.gguf"))


def logits(path: Path, *, as_rows: bool) -> np.ndarray:
    """Of a text given as ids, or as rows of the file's own token table."""
    with LlamaCpp(path, context=128, threads=1, cache="f32") as model:
        sequence = model.sequence()
        ids = model.tokenize(TEXT)
        if as_rows:
            assert model.token_rows is not None
            places = np.zeros((len(ids), 3), np.int32)
            places[:, 2] = np.arange(len(ids))
            sequence.append(Rows(model.token_rows(ids, 256), places, len(ids)), ".")
        else:
            sequence.append(TEXT)
            sequence.append(".")
        found: np.ndarray = sequence.logits()
    return found


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_ggufs(name: str, plain: Path, tmp_path: Path) -> None:
    """Made by llama.cpp itself; rows of the token table are the ids to the bit, of a Q6_K table to a rounding."""
    from llama_cpp import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = QUANTISED[name], 1
    path = tmp_path / f"{name}.gguf"
    assert llama_cpp.llama_model_quantize(os.fsencode(plain), os.fsencode(path), ctypes.byref(params)) == 0
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert name.removesuffix("_M") in kinds
    read = Gguf.read(path)
    assert (read.architecture, read.width, read.layers) == ("qwen2", 256, 2)
    by_ids, by_rows = logits(path, as_rows=False), logits(path, as_rows=True)
    table = next(t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight").tensor_type.name
    assert np.abs(by_rows - by_ids).max() <= (2e-6 * np.abs(by_ids).max() if table == "Q6_K" else 0)
    close = np.corrcoef(by_ids, logits(plain, as_rows=False))[0, 1]
    assert close > (0.9 if "4" in name or "6" in name else 0.5)  # of random weights, in two or three bits


@pytest.mark.parametrize("tensors", [1, 20])
def test_a_split_gguf_is_the_whole_one(tensors: int, plain: Path, tmp_path: Path) -> None:
    parts = split(plain, tmp_path, tensors)
    assert len(parts) > 1 and parts[0].name == f"llm-00001-of-{len(parts):05}.gguf"
    assert Gguf.read(parts[0]).layers == 2
    assert np.array_equal(logits(parts[0], as_rows=False), logits(plain, as_rows=False))


def test_a_bundle_of_a_split_gguf(qwen2_vl_case: Any, tmp_path: Path, plain_graph_only: None) -> None:
    case = qwen2_vl_case
    whole = write_gguf(case.model, case.tokenizer, tmp_path / "whole.gguf", dtype="f32")
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = split(whole, folder, 10)
    made = export_bundle(str(case.folder), tmp_path / "bundle", llm=parts[0], size=case.size)
    assert [ref.file for ref in made.bundle.manifest.language.parts] == [part.name for part in parts]
    with Pipeline(made.bundle, threads=1) as pipeline:
        clip = pipeline.encode([Frame(np.full((48, 80, 3), i * 40, np.uint8), i / 2, i) for i in range(4)])
        pipeline.watch(clip.tokens, np.ones(clip.tokens.shape[:2], bool), clip.times)
        pipeline.prefill_question("What moved?")
        assert np.isfinite(pipeline.sequence.logits()).all()


def test_a_checkpoint_in_shards_of_bfloat16_with_a_tied_head(
    cosmos_reason2_case: Any, tmp_path: Path, plain_graph_only: None
) -> None:
    """What is compared with is the model in the precision of its files."""
    case = cosmos_reason2_case
    folder = Path(shutil.copytree(case.folder, tmp_path / "checkpoint"))
    config = (folder / "config.json").read_bytes()
    (folder / "model.safetensors").unlink()
    half = copy.deepcopy(case.model).bfloat16()
    half.save_pretrained(folder, max_shard_size="40KB")
    (folder / "config.json").write_bytes(config)  # the older names of RoPE's settings
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len({*index["weight_map"].values()}) > 3 and "lm_head.weight" not in index["weight_map"]
    llm = write_gguf(half, case.tokenizer, tmp_path / "llm.gguf", dtype="f32")
    made = export_bundle(str(folder), tmp_path / "bundle", llm=llm, size=case.size)
    assert made.bundle.manifest.vision.fps == 4  # of video_preprocessor_config.json
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 80, 3), dtype=np.uint8)
    with Pipeline(made.bundle, threads=1) as pipeline:
        tokens = pipeline.encode([Frame(image, i / 4, i) for i, image in enumerate(frames)]).tokens
    exact = type(case.model).from_pretrained(folder, dtype=torch.float32).eval()
    from family_case import qwen_patches

    processor = transformers.AutoImageProcessor.from_pretrained(case.folder, backend="pil")
    patches, grid = qwen_patches(processor, frames[None])
    with torch.no_grad():
        found = exact.get_video_features(patches, grid)
        levels = [torch.cat(list(level)) for level in (found.pooler_output, *found.deepstack_features)]
        unrounded = torch.cat(case.model.get_video_features(patches, grid).pooler_output)
    expected = torch.cat(levels, dim=-1).numpy()[None]
    assert np.abs(tokens - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.abs(unrounded.numpy() - expected[0, :, : unrounded.shape[1]]).max() > 1e-3  # bfloat16 is another model


def with_next_token_layer(path: Path, out: Path) -> Path:
    """The same model with a layer behind its own that drafts tokens, as llama.cpp converts Qwen3.5."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    count = reader.fields[f"{architecture}.block_count"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    writer.kv_data[0].clear()
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = count + 1 if key.endswith(".block_count") else field.contents()
            writer.add_key_value(key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    writer.add_nextn_predict_layers(1)
    width = reader.fields[f"{architecture}.embedding_length"].contents()
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        writer.add_tensor(tensor.name, data)
        if tensor.name.startswith(f"blk.{count - 1}."):  # the last layer is one of full attention
            writer.add_tensor(tensor.name.replace(f"blk.{count - 1}.", f"blk.{count}."), data)
    for name, shape in {"eh_proj": (width, 2 * width), "enorm": (width,), "hnorm": (width,)}.items():
        writer.add_tensor(f"blk.{count}.nextn.{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_a_layer_that_drafts_tokens_is_none_of_the_model(qwen3_5_case: Any, tmp_path: Path) -> None:
    case = qwen3_5_case
    plain = write_gguf(case.model, case.tokenizer, tmp_path / "plain.gguf", dtype="f32")
    drafting = with_next_token_layer(plain, tmp_path / "drafting.gguf")
    check_gguf(Gguf.read(drafting), case.model.config, case.tokenizer)
    assert np.array_equal(logits(drafting, as_rows=False), logits(plain, as_rows=False))
