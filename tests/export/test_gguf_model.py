import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")

from score_edge.export.gguf_model import write_gguf  # noqa: E402


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {t.name: t for t in reader.tensors}


def test_metadata(qwen2_vl: Any, gguf_files: dict[str, Path]) -> None:
    fields, _ = read(gguf_files["f16"])
    expected = {
        "general.architecture": "qwen2vl",
        "general.name": "f16",
        "qwen2vl.block_count": 3,
        "qwen2vl.context_length": 4096,
        "qwen2vl.embedding_length": 128,
        "qwen2vl.feed_forward_length": 256,
        "qwen2vl.attention.head_count": 4,
        "qwen2vl.attention.head_count_kv": 2,
        "qwen2vl.rope.freq_base": 10000.0,
        "qwen2vl.rope.dimension_sections": [4, 6, 6, 0],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.eos_token_id": qwen2_vl.tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    assert {key: fields[key] for key in expected} == expected
    assert fields["qwen2vl.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5, rel=1e-6)


def test_vocabulary(tokenizer: Any, gguf_files: dict[str, Path]) -> None:
    fields, tensors = read(gguf_files["f16"])
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == tensors["token_embd.weight"].shape[1] == len(tokenizer) + 5
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == gguf.TokenType.CONTROL]
    assert set(control) == set(tokenizer.all_special_tokens) and "<|video_pad|>" in control
    assert types[-5:] == [gguf.TokenType.UNUSED] * 5


@pytest.mark.parametrize(("file", "kind"), [("f32", "F32"), ("f16", "F16")])
def test_weights(qwen2_vl: Any, gguf_files: dict[str, Path], file: str, kind: str) -> None:
    _, tensors = read(gguf_files[file])
    layer = qwen2_vl.model.get_decoder().layers[1]
    for name, weight in (
        ("attn_q.weight", layer.self_attn.q_proj.weight),
        ("ffn_down.weight", layer.mlp.down_proj.weight),
    ):
        tensor = tensors[f"blk.1.{name}"]
        assert tensor.tensor_type.name == kind
        assert np.array_equal(tensor.data, weight.detach().numpy().astype(tensor.data.dtype))
    assert {t.tensor_type.name for t in tensors.values() if len(t.shape) == 1} == {"F32"}
    assert len(tensors) == 3 + 3 * 12


@pytest.mark.parametrize("family", ["qwen3_5", "lfm2_vl", "gemma4"])
def test_half_precision_runs_where_layers_are_of_several_kinds(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """llama.cpp ends the process where a short convolution is in half precision, so nothing but a run shows it."""
    pytest.importorskip("llama_cpp")
    from score_edge.runtime.language.llama_cpp import LlamaCpp

    case, found = request.getfixturevalue(f"{family}_case"), []
    for dtype in ("f32", "f16"):
        path = write_gguf(case.model, case.tokenizer, tmp_path / f"{dtype}.gguf", dtype=dtype)  # type: ignore[arg-type]
        with LlamaCpp(path, context=128, threads=1) as model:
            sequence = model.sequence()
            sequence.append("What moved in the video?")
            found.append(sequence.logits())
    assert 0 < np.abs(found[1] - found[0]).max() < 0.05 * np.abs(found[0]).max()


def test_a_tied_head_is_left_out(gguf_files: dict[str, Path]) -> None:
    fields, tensors = read(gguf_files["plain"])
    assert fields["general.architecture"] == "qwen2"
    assert "output.weight" not in tensors and "token_embd.weight" in tensors


def test_bfloat16_weights(qwen2_vl: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(qwen2_vl.model).bfloat16()
    _, tensors = read(write_gguf(model, qwen2_vl.tokenizer, tmp_path / "model.gguf", dtype="f32", name="half"))
    expected = model.get_decoder().norm.weight.detach().float().numpy()
    assert np.array_equal(tensors["output_norm.weight"].data, expected)


def test_a_failure_leaves_the_old_file_and_nothing_else(qwen2_vl: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"old")
    model = copy.deepcopy(qwen2_vl.model)
    model.get_decoder().config.vocab_size = 10
    with pytest.raises(ScoreEdgeError, match="400 tokens, the embedding table only 10 rows"):
        write_gguf(model, qwen2_vl.tokenizer, path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.gguf"] and path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}, "RoPE scaling 'yarn'"),
        ("sliding_window", 128, "sliding-window"),
    ],
)
def test_what_gguf_cannot_express_is_refused(
    qwen2_vl: Any, tmp_path: Path, setting: str, value: Any, message: str
) -> None:
    model = copy.deepcopy(qwen2_vl.model)
    setattr(model.get_decoder().config, setting, value)
    with pytest.raises(ScoreEdgeError, match=message):
        write_gguf(model, qwen2_vl.tokenizer, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
