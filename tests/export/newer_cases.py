"""The families of 2026, as `conftest.py` has the first six."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_case import (
    CHAT,
    FOOT,
    HEAD,
    PLAIN,
    QWEN,
    SIGLIP,
    TEXT,
    Case,
    internvl,
    pixel_case,
    qwen_case,
    qwen_ids,
    text_config,
    timed_layout,
)

IMAGE_CHAT = CHAT.replace("'video'", "'image'")
# As Qwen3-VL's, which Cosmos-Reason2 has too: counters, optional ids, no system message of its own.
COSMOS_CHAT = (
    "{%- set videos = namespace(value=0) %}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for content in message.content %}"
    "{%- if content.type == 'video' or 'video' in content %}{%- set videos.value = videos.value + 1 %}"
    "{%- if add_vision_id %}Video {{ videos.value }}: {% endif -%}<|vision_start|><|video_pad|><|vision_end|>"
    "{%- elif 'text' in content %}{{- content.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


class Files:
    """A processor that is its files: transformers' own class needs torchvision."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def save_pretrained(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps(self.settings))


@pytest.fixture(scope="session")
def internvl3_5_case(make_tokenizer: Any, save: Any) -> Case:
    return internvl("internvl3_5", {"model_type": "qwen3", "head_dim": 16}, make_tokenizer, save)


@pytest.fixture(scope="session")
def cosmos_reason2_case(tokenizer: Any, save: Any) -> Case:
    """Qwen3-VL's classes with the files of Cosmos-Reason2: tied head, the older names of RoPE's settings."""
    import transformers

    vision = {**QWEN, "num_position_embeddings": 49, "deepstack_visual_indexes": [0, 1, 2]}
    sections = {"mrope_section": [3, 3, 2], "mrope_interleaved": True}
    # llama.cpp wants a layer more than there are DeepStack levels.
    shape = {"num_hidden_layers": 4, "head_dim": 16, "tie_word_embeddings": True}
    text = {**text_config(tokenizer, {**PLAIN, **sections}), **shape}
    config = transformers.Qwen3VLConfig(
        text_config=text, vision_config=vision, **{**qwen_ids(tokenizer), "tie_word_embeddings": True}
    )
    model = transformers.Qwen3VLForConditionalGeneration(config)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    given: dict[str, Any] = {"layout": timed_layout, "chat": COSMOS_CHAT, "processor": half}
    case = qwen_case("qwen3_vl", model, tokenizer, save, (48, 80), **given)
    file = case.folder / "config.json"
    document = json.loads(file.read_text())
    rope = document["text_config"].pop("rope_parameters")
    document["text_config"] |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"rope_type": "default", **sections},
    }
    file.write_text(json.dumps(document))
    videos = {"video_processor_type": "Qwen3VLVideoProcessor", "fps": 4, **half}
    (case.folder / "video_preprocessor_config.json").write_text(json.dumps(videos))
    return case


@pytest.fixture(scope="session")
def qwen3_5_case(tokenizer: Any, save: Any) -> Case:
    """Twice as many value heads as key heads, as all sizes above 4B have them."""
    import transformers

    vision = {**QWEN, "num_position_embeddings": 49}
    rope = {**PLAIN, "mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25}
    text = {
        **text_config(tokenizer, rope),
        "head_dim": 32,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    }
    config = transformers.Qwen3_5Config(text_config=text, vision_config=vision, **qwen_ids(tokenizer))
    model = transformers.Qwen3_5ForConditionalGeneration(config)
    return qwen_case("qwen3_5", model, tokenizer, save, (48, 80), layout=timed_layout)


@contextmanager
def half_gelu(model: Any) -> Iterator[None]:
    """A Gemma decoder whose GELU is ggml's: a table of half-precision values at half-precision places."""
    import torch

    def gelu(x: Any) -> Any:
        return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().to(x.dtype)

    holders = [m for m in model.get_decoder().modules() if hasattr(m, "act_fn")]
    before = [holder.act_fn for holder in holders]
    try:
        for holder in holders:
            del holder.act_fn
            holder.act_fn = gelu
        yield
    finally:
        for holder, function in zip(holders, before, strict=True):
            del holder.act_fn
            holder.act_fn = function


@pytest.fixture(scope="session")
def gemma4_case(make_tokenizer: Any, save: Any) -> Case:
    """Shared keys, per-layer inputs, clipped and standardised vision, as E2B; a head tied to the embeddings."""
    import torch
    import transformers
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    names = ["<bos>", "<|video|>", "<|image|>", "<|image>", "<image|>"]
    tokenizer = make_tokenizer(*names, bos_token="<bos>", pad_token="<|endoftext|>")
    tokenizer.add_bos_token = True
    video, image, start, end = (tokenizer.convert_tokens_to_ids(name) for name in names[1:])
    text = {
        **{key: value for key, value in TEXT.items() if key != "bos_token_id"},
        "vocab_size": len(tokenizer) + 3,
        "vocab_size_per_layer_input": len(tokenizer) + 3,
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "head_dim": 16,
        "global_head_dim": 32,
        "hidden_size_per_layer_input": 16,
        "sliding_window": 64,
        "final_logit_softcapping": 30.0,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    vision = {
        **SIGLIP,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 4,
        "position_embedding_size": 40,
        "use_clipped_linears": True,
        "standardize": True,
    }
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_proj_dims": 24},
        image_token_id=image,
        video_token_id=video,
        boi_token_id=start,
        eoi_token_id=end,
    )
    model = transformers.Gemma4ForConditionalGeneration(config)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.fill_(0.8)
        elif "vision_tower" in name and name.endswith(("_min", "_max")):
            buffer.fill_(-4.0 if name.endswith("_min") else 4.0)
        elif name.endswith(("std_bias", "std_scale")):
            buffer.copy_(torch.linspace(0.5, 1.5, len(buffer)))
    processor = Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70)
    folder = save(
        "gemma4", model, tokenizer, processor, "<bos>" + CHAT.replace("VIDEO", "{{ '\\n\\n<|video|>\\n\\n' }}")
    )

    def found(steps: np.ndarray) -> dict[str, Any]:
        return dict(processor(images=list(steps[:, 0]), return_tensors="pt"))

    def features(steps: np.ndarray) -> np.ndarray:
        given = found(steps)
        with torch.no_grad():
            rows = model.get_image_features(given["pixel_values"], given["image_position_ids"]).pooler_output
        tokens: np.ndarray = torch.stack(list(rows)).numpy()
        return tokens

    def inputs(steps: np.ndarray) -> dict[str, Any]:
        given = found(steps)
        return {
            "pixel_values_videos": given["pixel_values"],
            "video_position_ids": given["image_position_ids"],
            "num_frames_per_video": torch.tensor([len(steps)]),
        }

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        parts: list[str | list[int]] = ["<bos>" + HEAD + "\n\n"]
        for step, time in zip(steps, times, strict=True):
            parts[-1] += (" " if len(parts) > 1 else "") + f"00:{int(time):02d} <|image>"
            parts += [[step], "<image|>"]
        parts[-1] += "\n\n" + FOOT
        return parts

    def decoder(ids: Any, seen: Any) -> dict[str, Any]:
        text = torch.where(seen[None], tokenizer.pad_token_id, ids)
        return {"per_layer_inputs": model.model.language_model.get_per_layer_inputs(text)}

    return Case(
        "gemma4",
        model,
        tokenizer,
        folder,
        (72, 132),
        1,
        video,
        features,
        layout,
        inputs,
        decoder=decoder,
        arithmetic=lambda: half_gelu(model),
        one_call=False,  # text has per-layer inputs of its own
    )


@pytest.fixture(scope="session")
def lfm2_vl_case(make_tokenizer: Any, save: Any) -> Case:
    import torch
    import transformers
    from PIL import Image
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    names = ["<|startoftext|>", "<image>", "<|image_start|>", "<|image_end|>"]
    tokenizer = make_tokenizer(*names, bos_token=names[0])
    tokenizer.add_bos_token = True
    image = tokenizer.convert_tokens_to_ids("<image>")
    text = {
        **text_config(tokenizer, PLAIN),
        "model_type": "lfm2",
        "num_hidden_layers": 4,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        "block_multiple_of": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": None,
    }
    vision = {
        "model_type": "siglip2_vision_model",
        **SIGLIP,
        "num_patches": 64,
        "patch_size": 4,
        "vision_use_head": False,
    }
    config = transformers.Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=image, projector_hidden_size=48
    )
    model = transformers.Lfm2VlForConditionalGeneration(config)
    files = Files(
        image_processor_type="Lfm2VlImageProcessorFast",
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=2,
        rescale_factor=1 / 255,
        max_image_tokens=64,
    )
    folder = save("lfm2_vl", model, tokenizer, files, names[0] + IMAGE_CHAT.replace("VIDEO", "<image>"))
    # Its patches are those of SigLIP 2, whose processor needs no torchvision; Pillow resizes.
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=240)

    def inputs(steps: np.ndarray) -> dict[str, Any]:
        images = [Image.fromarray(frame).resize((80, 48), Image.Resampling.BILINEAR) for frame in steps[:, 0]]
        given = processor(images=images, return_tensors="pt")
        assert given["spatial_shapes"].tolist() == [[12, 20]] * len(images)
        return dict(given)

    def features(steps: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            rows = model.get_image_features(**inputs(steps)).pooler_output
        tokens: np.ndarray = torch.stack(list(rows)).numpy()
        return tokens

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        parts: list[str | list[int]] = [names[0] + HEAD]
        for step in steps:
            parts[-1] += "<|image_start|>"
            parts += [[step], "<|image_end|>"]
        parts[-1] += FOOT
        return parts

    return Case("lfm2_vl", model, tokenizer, folder, (48, 80), 1, image, features, layout, inputs)


@pytest.fixture(scope="session")
def fast_vlm_case(make_tokenizer: Any, save: Any, timm: Any) -> Case:
    """FastViTHD with one block per stage; frames padded to a square by Pillow, as ours are."""
    import transformers
    from PIL import Image
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tokenizer = make_tokenizer("<image>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    vision = {
        "model_type": "timm_wrapper",
        "architecture": "fastvit_mci3",
        "hidden_size": 64,
        "label_names": ["none"],
        "model_args": {"inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 16, 16, 32, 32]},
    }
    text = {**text_config(tokenizer, PLAIN), "model_type": "qwen2"}
    config = transformers.FastVlmConfig(text_config=text, vision_config=vision, image_token_index=image)
    model = transformers.FastVlmForConditionalGeneration(config)
    side = {"height": 256, "width": 256}
    processor = LlavaImageProcessorPil(size=side, crop_size=side, do_pad=True)
    folder = save("fast_vlm", model, tokenizer, processor, IMAGE_CHAT.replace("VIDEO", "<image>\n"))

    def pixels(frames: list[np.ndarray]) -> Any:
        squares = []
        for frame in frames:
            height = round(256 / frame.shape[1] * frame.shape[0])
            square = Image.new("RGB", (256, 256), tuple(int(255 * mean) for mean in processor.image_mean))
            square.paste(
                Image.fromarray(frame).resize((256, height), Image.Resampling.BICUBIC), (0, (256 - height) // 2)
            )
            squares.append(np.asarray(square))
        return processor(images=squares, return_tensors="pt")["pixel_values"]

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        return [HEAD, steps, "\n" + FOOT]

    return pixel_case("fast_vlm", model, tokenizer, folder, 256, pixels, layout=layout, placeholder=image)
