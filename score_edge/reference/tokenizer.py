"""The reference model's tokenizer: byte-level BPE with Qwen's pre-tokenizer, merged from the world's own sentences."""

from typing import TYPE_CHECKING

from score_edge.errors import require
from score_edge.reference.world import vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PROMPT_BEFORE = "<|im_start|>user\n<|vision_start|>"
PROMPT_AFTER = "<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"

# Qwen2's rule for cutting text into words before byte pairs are merged (its tokenizer.json).
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """The same tokenizer every time: 256 bytes, the merges of the world's sentences, the special tokens."""
    tokenizers = require("tokenizers", "export")
    transformers = require("transformers", "export")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.normalizer = tokenizers.normalizers.NFC()
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1024,
        show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator([*vocabulary(), "user\n", "assistant\n"] * 2, trainer)
    bpe.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer: PreTrainedTokenizerFast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    return tokenizer
