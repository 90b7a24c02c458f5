"""The vocabulary of a language model of a known shape: single bytes, the marks of all families, words of prompts.

How long a prompt is depends on it. Real vocabularies have each mark and each common word as one token, so these have,
too; digits and signs are single bytes, as with Qwen and SmolLM2. Other words are spelled out.
"""

import hashlib
import re
from typing import Any, Final

END: Final = "<|im_end|>"
"""Ends a turn."""
MARKS: Final = (
    *(END, "<|im_start|>", "<|endoftext|>"),
    *("<|vision_start|>", "<|vision_end|>"),  # Qwen-VL
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>"),  # SmolVLM
    *("<img>", "</img>"),  # InternVL
    *("<|startoftext|>", "<|image_start|>", "<|image_end|>"),  # LFM2-VL
    *("<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>"),  # Gemma 4
)
_TEXT: Final = """
User: Assistant: user assistant system model You are provided the following series of twenty frames from a video.
Frame from 00:00: Frame1: Here are some frames. You are a helpful assistant. This is an image, seconds, time, picture.
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand and
What happens here? What happened? And who is there? what moved? What do you see? Is there a person, where, when, why?
how many things moved fast? Describe the scene, in one word, with and without it. Answer yes or no. The last, first, new
"""
"""Words of the families' own prompts, numbers as SmolVLM writes them, and of the questions that are measured with."""


def vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens and the kind of each: NORMAL, CONTROL or UNUSED.

    Args:
        size: how many; those that nothing else needs have names nobody types.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    # A byte-level BPE writes the blank before a word as Ġ, the end of a line as Ċ.
    words = sorted({blank + word for word in re.findall("[A-Za-z]+", _TEXT) for blank in ("", "Ġ")} - set(letters))
    words = ["ĊĊ", *words][: size - len(letters) - len(MARKS)]
    tokens = [*letters, *MARKS, *words]
    unused = [f"<|{i}|>" for i in range(len(tokens), size)]
    kinds = ["NORMAL"] * len(letters) + ["CONTROL"] * len(MARKS) + ["NORMAL"] * len(words) + ["UNUSED"] * len(unused)
    return tokens + unused, kinds


def fingerprint(size: int) -> str:
    """Changes with the vocabulary: files of an older one must not pass for files of this one."""
    return hashlib.sha256("\n".join(vocabulary(size)[0]).encode()).hexdigest()[:8]


def add_tokenizer(writer: Any, gguf: Any, size: int) -> None:
    """Write the vocabulary into a GGUF."""
    tokens, kinds = vocabulary(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")  # takes a word of the vocabulary whole, without merges that lead to it
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType[kind] for kind in kinds])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(tokens.index(END))
    writer.add_eot_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
