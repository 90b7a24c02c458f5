"""What a case of a family is, and what the cases share; `conftest.py` loads it under its own name."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

QUESTION = "What moved in the video?"
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = {**PLAIN, "mrope_section": [2, 3, 3]}
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN = {"depth": 3, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 48, "patch_size": 4}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}VIDEO"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_CHAT = CHAT.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>")
HEAD, FOOT = "<|im_start|>user\n", f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@dataclasses.dataclass
class Case:
    """A checkpoint and transformers' view of it.

    Attributes:
        size: (height, width) of the bundle.
        per_step: frames of a step.
        features: frames of a clip (S, per_step, H, W, 3) uint8 to tokens (S, N, D).
        layout: the steps shown and their times to the whole prompt: text, and for every block of visual tokens the
            steps in it.
        inputs: what the model's forward takes besides ids and positions, for the frames of a clip.
        placeholder: id that stands for a visual token.
        seconds: M-RoPE time positions per second.
        newline: a learned row closes the clip.
        decoder: what the decoder's forward takes besides rows and positions, for ids and which of them are visual.
        arithmetic: while it is entered, `model` rounds as llama.cpp does where that is more than rounding of float32.
        one_call: rows can take the place of text, so that a clip is one call of llama.cpp.
    """

    name: str
    model: Any
    tokenizer: Any
    folder: Path
    size: tuple[int, int]
    per_step: int
    placeholder: int
    features: Callable[[np.ndarray], np.ndarray]
    layout: Callable[[list[int], list[float]], list[str | list[int]]]
    inputs: Callable[[np.ndarray], dict[str, Any]]
    mrope: bool = False
    seconds: float | None = None
    newline: bool = False
    decoder: Callable[[Any, Any], dict[str, Any]] = lambda ids, seen: {}
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext
    one_call: bool = True


def qwen_patches(processor: Any, steps: np.ndarray) -> Any:
    """(S * P, C) of the image processor, which doubles a frame: each frame of a step gets its half."""
    import torch

    patches = []
    for step in steps:
        halves = [processor(images=[frame], return_tensors="pt") for frame in step]
        grid = halves[0]["image_grid_thw"][0]
        p = processor.patch_size
        both = [half["pixel_values"].view(-1, 3, 2, p * p) for half in halves]
        patches.append(torch.stack([both[i % len(both)][:, :, i] for i in range(2)], dim=2).flatten(1))
    return torch.cat(patches), torch.tensor([[len(steps), int(grid[1]), int(grid[2])]])


def qwen_case(name: str, model: Any, tokenizer: Any, save: Any, size: tuple[int, int], **more: Any) -> Case:
    """A Qwen model's case; `chat` takes the place of the template, `processor` has settings of its own."""
    import torch
    from transformers import Qwen2VLImageProcessorPil

    config = model.config.vision_config
    cell = config.patch_size * 2
    # A budget of pixels at which the processor itself arrives at 48 x 80 for 16:9 and for 5:3.
    processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size,
        size={"shortest_edge": cell**2, "longest_edge": 4150},
        **more.pop("processor", {}),
    )
    folder = save(name, model, tokenizer, processor, more.pop("chat", QWEN_CHAT))

    def features(steps: np.ndarray) -> np.ndarray:
        patches, grid = qwen_patches(processor, steps)
        with torch.no_grad():
            found = model.get_video_features(patches, grid)
        rows = torch.cat(found.pooler_output)
        if levels := getattr(found, "deepstack_features", None):
            rows = torch.cat([rows, *(torch.cat(list(level)) for level in levels)], dim=-1)
        return rows.view(len(steps), -1, rows.shape[-1]).numpy()

    def inputs(steps: np.ndarray) -> dict[str, Any]:
        patches, grid = qwen_patches(processor, steps)
        return {"pixel_values_videos": patches, "video_grid_thw": grid}

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        return [HEAD + "<|vision_start|>", steps, "<|vision_end|>" + FOOT]

    settings: dict[str, Any] = {"layout": layout, "mrope": True} | more
    return Case(
        name, model, tokenizer, folder, size, 2, model.config.video_token_id, features, inputs=inputs, **settings
    )


def qwen_ids(tokenizer: Any) -> dict[str, Any]:
    token = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": False,
    }


def text_config(tokenizer: Any, rope: dict[str, Any]) -> dict[str, Any]:
    return {**TEXT, "vocab_size": len(tokenizer) + 3, "rope_parameters": rope, "eos_token_id": tokenizer.eos_token_id}


def pixel_case(name: str, model: Any, tokenizer: Any, folder: Path, size: int, pixels: Any, **more: Any) -> Case:
    """A family whose encoder sees one frame at a time; `pixels` turns frames (S, H, W, 3) into what the model takes."""
    import torch

    video = "pixel_values_videos" if name == "llava_onevision" else "pixel_values"

    def inputs(steps: np.ndarray) -> dict[str, Any]:
        return {video: pixels(list(steps[:, 0]))}

    def features(steps: np.ndarray) -> np.ndarray:
        get = model.get_video_features if name == "llava_onevision" else model.get_image_features
        with torch.no_grad():
            found = get(**inputs(steps)).pooler_output
        rows = torch.cat(list(found)).flatten(0, -2).numpy()
        return rows[: len(rows) // len(steps) * len(steps)].reshape(len(steps), -1, rows.shape[-1])

    settings = {"features": features, "inputs": inputs} | more
    return Case(name, model, tokenizer, folder, (size, size), 1, placeholder=settings.pop("placeholder"), **settings)


def timed_layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
    """As transformers laid out Qwen3-VL before 5: the template's own wrappers give way to those of the steps."""
    parts: list[str | list[int]] = [HEAD]
    for step, time in zip(steps, times, strict=True):
        parts[-1] += f"<{time:.1f} seconds><|vision_start|>"
        parts += [[step], "<|vision_end|>"]
    parts[-1] += FOOT
    return parts


def internvl(name: str, decoder: dict[str, Any], make_tokenizer: Any, save: Any) -> Case:
    """InternVL with the decoder that its config names."""
    import transformers
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(*named.values())
    tokenizer._set_model_specific_special_tokens(named)
    image = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    vision = {
        **SIGLIP,
        "image_size": [32, 32],
        "patch_size": [4, 4],
    }
    text = {**text_config(tokenizer, PLAIN), **decoder}
    config = transformers.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=image, tie_word_embeddings=False
    )
    model = transformers.InternVLForConditionalGeneration(config)
    # Larger than the encoder was built for: its positions are interpolated.
    processor = GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, crop_to_patches=False)
    folder = save(name, model, tokenizer, processor, CHAT.replace("VIDEO", "<video>\n"))

    def pixels(frames: list[np.ndarray]) -> Any:
        return processor(images=frames, return_tensors="pt")["pixel_values"]

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        parts: list[str | list[int]] = [HEAD]
        for step in steps:
            parts[-1] += ("\n" if len(parts) > 1 else "") + f"Frame{step + 1}: <img>"
            parts += [[step], "</img>"]
        parts[-1] += "\n" + FOOT
        return parts

    return pixel_case("internvl", model, tokenizer, folder, 48, pixels, layout=layout, placeholder=image)
