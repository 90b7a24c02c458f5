"""A GGUF written by `write_gguf` as a transformers model and tokenizer again."""

from pathlib import Path
from typing import Any

from score_edge.errors import ScoreEdgeError, require
from score_edge.export.gguf_model import load_gguf
from score_edge.reference.tokenizer import WORDS


def read_qwen2_vl(path: str | Path) -> Any:
    """The decoder of a `qwen2vl` GGUF as `Qwen2VLForConditionalGeneration` in float32; its vision tower is a stub.

    Raises:
        ScoreEdgeError: another architecture, or quantised weights.
    """
    transformers = require("transformers", "train")
    fields = _fields(path)
    architecture = fields["general.architecture"]
    if architecture != "qwen2vl":
        raise ScoreEdgeError(
            f"{path} holds a {architecture} model; only qwen2vl files can be read back",
            "name the checkpoint it was made from with --model",
        )
    value = {key.removeprefix("qwen2vl."): item for key, item in fields.items()}
    sections = [int(size) for size in value["rope.dimension_sections"]][:3]
    ids = {f"{kind}_token_id": fields["tokenizer.ggml.eos_token_id"] for kind in ("image", "video", "vision_start")}
    config = transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(fields["tokenizer.ggml.tokens"]),
            "hidden_size": value["embedding_length"],
            "intermediate_size": value["feed_forward_length"],
            "num_hidden_layers": value["block_count"],
            "num_attention_heads": value["attention.head_count"],
            "num_key_value_heads": value["attention.head_count_kv"],
            "max_position_embeddings": value["context_length"],
            "rms_norm_eps": value["attention.layer_norm_rms_epsilon"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": value["rope.freq_base"],
                "mrope_section": sections,
            },
            "bos_token_id": None,
            "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
            "pad_token_id": None,
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": value["embedding_length"]},
        tie_word_embeddings=False,
        **ids,
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    if "output.weight" not in _tensor_names(path):  # a tied head is left out of the file
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    load_gguf(model, path)
    return model.eval()


def read_tokenizer(path: str | Path) -> Any:
    """The byte-level BPE of a GGUF with Qwen2's pre-tokenizer, as a fast tokenizer."""
    gguf, tokenizers = require("gguf", "train"), require("tokenizers", "train")
    transformers = require("transformers", "train")
    fields = _fields(path)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.CONTROL]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bpe.normalizer = tokenizers.normalizers.NFC()
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
    eos = tokens[fields["tokenizer.ggml.eos_token_id"]]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=eos)


def _fields(path: str | Path) -> dict[str, Any]:
    gguf = require("gguf", "train")
    return {str(name): field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def _tensor_names(path: str | Path) -> set[str]:
    gguf = require("gguf", "train")
    return {str(tensor.name) for tensor in gguf.GGUFReader(path).tensors}
