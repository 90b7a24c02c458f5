"""The two ways into TensorRT-LLM: ModelRunnerCpp for an engine, the LLM API for a checkpoint. Never run on hardware."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from score_edge.core import Int32
from score_edge.errors import ScoreEdgeError, require
from score_edge.runtime.language import tensorrt_llm_request as request
from score_edge.runtime.language.base import Question, Rows
from score_edge.runtime.language.mrope import mrope_positions, plain_positions, position_delta, rotary_cos_sin
from score_edge.runtime.language.tensorrt_llm_request import LlmConfig

Part: TypeAlias = Int32 | Rows


class Way(Protocol):
    """How text and rows become an answer."""

    def ids(self, text: str | Question) -> list[int]:
        """Token ids."""
        ...

    def generate(self, parts: list[Part], max_tokens: int) -> Iterator[str]:
        """Greedy answer to all of it, piece by piece."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def ids_of(tokenizer: Any, text: str | Question) -> list[int]:
    """Token ids by a Hugging Face tokenizer; special tokens are parsed, but not in what a question holds from outside.

    Words next to the question's own may be one token with them: only special tokens part them.
    """
    if isinstance(text, str):
        return list(tokenizer.encode(text, add_special_tokens=False))
    special = sorted(map(str, tokenizer.all_special_tokens), key=len, reverse=True)
    if not any(token in text.text for token in special):
        return ids_of(tokenizer, text.before + text.text + text.after)
    pattern = re.compile(f"({'|'.join(map(re.escape, special))})")
    *before, joint = pattern.split(text.before)
    rest, *after = pattern.split(text.after)
    ids = list[int]()
    for i, piece in enumerate([*before, joint + text.text + rest, *after]):
        if piece:
            ids += tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=i % 2 == 0)
    return ids


def sequence_positions(parts: list[Part], config: LlmConfig) -> tuple[Any, int]:
    """(3, L) int64 positions and the next one, as the model's RoPE wants them."""
    return mrope_positions(parts) if config.sections else plain_positions(sum(map(len, parts)))


class EngineWay:
    """ModelRunnerCpp: the caller chooses the ids, the rows and the rotations."""

    def __init__(self, folder: Path, config: LlmConfig) -> None:
        self._torch = require("torch", "export")
        transformers = require("transformers", "export")
        from tensorrt_llm.layers import MropeParams  # type: ignore[import-not-found, unused-ignore]
        from tensorrt_llm.runtime import ModelRunnerCpp  # type: ignore[import-not-found, unused-ignore]

        self._mrope_params = MropeParams
        self._config = config
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            hint = "copy tokenizer.json and tokenizer_config.json of its checkpoint beside the engine"
            raise ScoreEdgeError(f"there is no tokenizer in {folder}, and an engine holds none", hint) from error
        # Reuse is sound because extra ids are part of a block's key.
        self._runner = ModelRunnerCpp.from_dir(str(folder), kv_cache_enable_block_reuse=True)

    def ids(self, text: str | Question) -> list[int]:
        """Token ids."""
        return ids_of(self._tokenizer, text)

    def generate(self, parts: list[Part], max_tokens: int) -> Iterator[str]:
        """Greedy answer to all of it, piece by piece."""
        torch, config, tokenizer = self._torch, self._config, self._tokenizer
        ids = request.fake_ids(parts, config.vocabulary)
        videos = [part for part in parts if isinstance(part, Rows)]
        arguments: dict[str, Any] = {}
        if videos:
            table = torch.from_numpy(request.prompt_table(videos, config.width))
            arguments |= {
                "prompt_table": table.to(getattr(torch, config.dtype)),
                "prompt_tasks": "0",
                "input_token_extra_ids": [request.extra_ids(parts)],
            }
        if config.sections:
            positions, following = sequence_positions(parts, config)
            rotations = rotary_cos_sin(
                positions, head=config.head, theta=config.theta, sections=config.sections, length=config.positions
            )
            arguments["mrope_params"] = self._mrope_params(
                mrope_rotary_cos_sin=torch.from_numpy(rotations),
                mrope_position_deltas=torch.from_numpy(position_delta(len(ids), following)),
            )
        end = tokenizer.eos_token_id
        stream = self._runner.generate(
            [torch.from_numpy(ids)],
            max_new_tokens=max_tokens,
            end_id=end,
            pad_id=end if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            streaming=True,
            return_dict=True,
            output_sequence_lengths=True,
            **arguments,
        )
        said = ""
        for output in stream:
            # While it streams the prompt leads, and the end token fills up what was not generated.
            length = int(output["sequence_lengths"][0][0])
            answer = [int(token) for token in output["output_ids"][0][0][len(ids) : length]]
            text = tokenizer.decode([token for token in answer if token != end], skip_special_tokens=True)
            if text.endswith("\ufffd"):  # in the middle of a character
                continue
            yield text[len(said) :]
            said = text

    def close(self) -> None:
        """Free the model."""
        self._runner = None


class CheckpointWay:
    """The LLM API: its input processor is given ids, rows and positions instead of making them up."""

    def __init__(self, folder: Path, config: LlmConfig) -> None:
        self._torch = require("torch", "export")
        from tensorrt_llm import LLM, SamplingParams  # type: ignore[import-not-found, unused-ignore]
        from tensorrt_llm.llmapi import KvCacheConfig  # type: ignore[import-not-found, unused-ignore]

        self._sampling = SamplingParams
        self._config = config
        # No reuse of blocks: embeddings from outside are no part of their key, so two videos would be one.
        cache = KvCacheConfig(enable_block_reuse=False)
        self._llm = LLM(
            model=str(folder),
            max_batch_size=1,
            max_seq_len=config.context,
            max_num_tokens=config.context,  # a prompt longer than that is refused, and the default is 8192
            kv_cache_config=cache,
        )
        self._processor = self._llm.input_processor
        # Since 1.3 the models override an inner method and keep the placeholder inside the vocabulary.
        self._inner = hasattr(self._processor, "_attach_multimodal_embeddings_impl")
        name = "_attach_multimodal_embeddings_impl" if self._inner else "attach_multimodal_embeddings"
        setattr(self._processor, name, self._attach)
        self._prepared: tuple[list[int], dict[str, Any]] = [], {}

    def ids(self, text: str | Question) -> list[int]:
        """Token ids."""
        return ids_of(self._llm.tokenizer, text)

    def generate(self, parts: list[Part], max_tokens: int) -> Iterator[str]:
        """Greedy answer to all of it, piece by piece."""
        torch, config = self._torch, self._config
        videos = [part for part in parts if isinstance(part, Rows)]
        ids = request.placeholder_ids(parts, self._placeholder())
        rows = torch.from_numpy(request.prompt_table(videos, config.width)[0])
        data: dict[str, Any] = {"multimodal_embedding": [rows] if self._inner else rows}
        if config.sections:
            positions, following = sequence_positions(parts, config)
            data["mrope_config"] = {
                "mrope_position_ids": torch.from_numpy(np.ascontiguousarray(positions[:, None])),
                "mrope_position_deltas": torch.from_numpy(position_delta(len(ids), following)),
            }
        self._prepared = ids.tolist(), {"multimodal_data": data}
        prompt: dict[str, Any] = {"prompt": "video", "multi_modal_embeddings": {"image": [rows]}}
        if not videos:
            prompt = {"prompt_token_ids": ids.tolist()}
        sampling = self._sampling(max_tokens=max_tokens, top_k=1)
        for output in self._llm.generate_async(prompt, sampling_params=sampling, streaming=True):
            if piece := output.outputs[0].text_diff:
                yield piece

    def _placeholder(self) -> int:
        # Older processors mark visual tokens by an id of their own beyond the vocabulary.
        beyond = getattr(self._processor, "tllm_multimodal_token_id", None)
        if beyond is None or self._inner:
            beyond = self._config.image_token
        return self._config.vocabulary + 1 if beyond is None else int(beyond)

    def _attach(self, inputs: Any, embeddings: Any, sampling: Any) -> tuple[list[int], dict[str, Any]]:
        return self._prepared

    def close(self) -> None:
        """Free the model."""
        self._llm.shutdown()
