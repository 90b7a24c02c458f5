"""Small random checkpoints of real transformers classes, saved as their authors do, and what transformers makes of it.

A case knows the independent side of every comparison: pixels from the checkpoint's own PIL image processor, tokens and
logits from the full transformers model. Only positions are computed here, because transformers >= 5.3 lets text start
inside a video; see DESIGN.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED", Path(__file__).parents[3] / "shared"))
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


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory, randomize: Callable[[Any], Any]) -> Callable[..., Any]:
    """Randomise a model and save it with tokenizer and processor, in files as the hub has them."""

    def save(name: str, model: Any, tokenizer: Any, processor: Any, chat: str | None) -> Path:
        import torch

        torch.manual_seed(0)
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            wide = parameter.ndim > 1
            parameter.data.copy_(noise * (1.2 / parameter[0].numel() ** 0.5) if wide else parameter + 0.1 * noise)
            if "position_embedding" in key or "pos_embed" in key or "cls_token" in key:
                parameter.data.copy_(0.3 * noise)
        randomize(model)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


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
    import torch
    from transformers import Qwen2VLImageProcessorPil

    config = model.config.vision_config
    cell = config.patch_size * 2
    # A budget of pixels at which the processor itself arrives at 48 x 80 for 16:9 and for 5:3.
    processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch_size, size={"shortest_edge": cell**2, "longest_edge": 4150}
    )
    folder = save(name, model, tokenizer, processor, QWEN_CHAT)

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


@pytest.fixture(scope="session")
def qwen2_vl_case(tokenizer: Any, save: Any) -> Case:
    import transformers

    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config=text_config(tokenizer, MROPE), vision_config=vision, **qwen_ids(tokenizer)
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    return qwen_case("qwen2_vl", model, tokenizer, save, (48, 80))


@pytest.fixture(scope="session")
def qwen2_5_vl_case(tokenizer: Any, save: Any) -> Case:
    import transformers

    vision = {
        **QWEN,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 4,
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=text_config(tokenizer, MROPE), vision_config=vision, **qwen_ids(tokenizer)
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    # 6 x 10 tokens in windows of 4 x 4: cut off at both edges.
    return qwen_case("qwen2_5_vl", model, tokenizer, save, (48, 80), seconds=4.0)


@pytest.fixture(scope="session")
def qwen3_vl_case(tokenizer: Any, save: Any) -> Case:
    import transformers

    vision = {
        **QWEN,
        "num_position_embeddings": 49,
        "deepstack_visual_indexes": [0, 2],
    }
    # llama.cpp leaves a pair beyond its section without a position, transformers gives it the time: no pair is beyond.
    rope = {**PLAIN, "mrope_section": [3, 3, 2], "mrope_interleaved": True}
    text = {**text_config(tokenizer, rope), "head_dim": 16}
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, **qwen_ids(tokenizer))
    model = transformers.Qwen3VLForConditionalGeneration(config)

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        # As transformers did before 5: the template's own wrappers give way to those of the steps.
        parts: list[str | list[int]] = [HEAD]
        for step, time in zip(steps, times, strict=True):
            parts[-1] += f"<{time:.1f} seconds><|vision_start|>"
            parts += [[step], "<|vision_end|>"]
        parts[-1] += FOOT
        return parts

    return qwen_case("qwen3_vl", model, tokenizer, save, (48, 80), layout=layout)


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


@pytest.fixture(scope="session")
def smolvlm_case(make_tokenizer: Any, save: Any) -> Case:
    import transformers
    from transformers.models.smolvlm import processing_smolvlm as words
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = make_tokenizer("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>")
    image = tokenizer.convert_tokens_to_ids("<image>")
    vision = {
        **SIGLIP,
        "image_size": 66,  # two pixels that no patch sees, as 384 has with patches of 14
        "patch_size": 4,
    }
    text = {**text_config(tokenizer, PLAIN), "model_type": "llama"}
    config = transformers.SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=4, image_token_id=image, tie_word_embeddings=False
    )
    model = transformers.SmolVLMForConditionalGeneration(config)
    # Two resizes: to a longest edge of 96 with the frame's shape, then to a square.
    processor = SmolVLMImageProcessorPil(size={"longest_edge": 96}, max_image_size={"longest_edge": 66})
    folder = save("smolvlm", model, tokenizer, processor, CHAT)

    def pixels(frames: list[np.ndarray]) -> Any:
        return processor(images=[frames], do_image_splitting=False, return_tensors="pt")["pixel_values"]

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        count = {1: "one", 2: "two", 3: "three"}[len(steps)]
        text = "<|im_start|>User: " + words.DEFAULT_VIDEO_INTRO.format(
            frame_count=count, video_duration=f"0:00:0{int(times[-1])}"
        )
        parts: list[str | list[int]] = [text]
        for step, time in zip(steps, times, strict=True):
            parts[-1] += f"\nFrame from 00:0{int(time)}:<fake_token_around_image><global-img>"
            parts += [[step], "<fake_token_around_image>"]
        parts[-1] += f"\n\n{QUESTION}<end_of_utterance>\nAssistant:"
        return parts

    return pixel_case("smolvlm", model, tokenizer, folder, 66, pixels, layout=layout, placeholder=image)


@pytest.fixture(scope="session")
def llava_onevision_case(make_tokenizer: Any, save: Any) -> Case:
    import transformers
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer = make_tokenizer("<image>", "<video>")
    token = tokenizer.convert_tokens_to_ids
    vision = {
        "model_type": "siglip_vision_model",
        **SIGLIP,
        "num_hidden_layers": 3,
        "image_size": 30,  # 7 patches, an odd number as the 27 of 384 pixels, and two pixels that no patch sees
        "patch_size": 4,
        "vision_use_head": False,
    }
    text = {**text_config(tokenizer, PLAIN), "model_type": "qwen2"}
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        vision_feature_layer=-2,
        image_token_index=token("<image>"),
        video_token_index=token("<video>"),
        image_grid_pinpoints=[[30, 30]],
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config)
    processor = LlavaOnevisionImageProcessorPil(size={"height": 30, "width": 30}, image_grid_pinpoints=[[30, 30]])
    chat = CHAT.replace("VIDEO", "<video>\n")
    folder = save("llava_onevision", model, tokenizer, processor, chat)

    def pixels(frames: list[np.ndarray]) -> Any:
        import torch

        # The first tile of an image is the whole of it, resized as a video frame is.
        return torch.stack([processor(images=[f], return_tensors="pt")["pixel_values"][0, 0] for f in frames])[None]

    def layout(steps: list[int], times: list[float]) -> list[str | list[int]]:
        return [HEAD, steps, "\n" + FOOT]

    video = token("<video>")
    return pixel_case(
        "llava_onevision", model, tokenizer, folder, 30, pixels, layout=layout, placeholder=video, newline=True
    )


@pytest.fixture(scope="session")
def internvl_case(make_tokenizer: Any, save: Any) -> Case:
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
    text = {**text_config(tokenizer, PLAIN), "model_type": "qwen2"}
    config = transformers.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=image, tie_word_embeddings=False
    )
    model = transformers.InternVLForConditionalGeneration(config)
    # Larger than the encoder was built for: its positions are interpolated.
    processor = GotOcr2ImageProcessorPil(size={"height": 48, "width": 48}, crop_to_patches=False)
    folder = save("internvl", model, tokenizer, processor, CHAT.replace("VIDEO", "<video>\n"))

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


FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision", "internvl"]


@pytest.fixture(scope="session", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every family in turn."""
    pytest.importorskip("transformers")
    found: Case = request.getfixturevalue(f"{request.param}_case")
    found.model.eval()
    return found


@pytest.fixture(scope="session")
def export_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Any]:
    """Export a case's bundle, with a GGUF of its own decoder in float32."""
    pytest.importorskip("onnx")
    pytest.importorskip("gguf")
    from score_edge.export.bundle_export import export_bundle
    from score_edge.export.gguf_model import write_gguf

    def export(case: Case) -> Any:
        folder = tmp_path_factory.mktemp("bundles")
        llm = write_gguf(case.model, case.tokenizer, folder / f"{case.name}.gguf", dtype="f32")
        return export_bundle(str(case.folder), folder / "bundle", llm=llm, size=case.size)

    return export


@pytest.fixture(scope="session")
def bundled(case: Case, export_case: Callable[[Case], Any]) -> Any:
    """The case's bundle."""
    return export_case(case)


@pytest.fixture(scope="session")
def families() -> tuple[str, ...]:
    """Names of all cases."""
    return tuple(FAMILIES)


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """(8, H, W, 3) uint8: real frames, 432 x 768; waves of 360 x 640 where the videos are not there."""
    path = SHARED / "videos" / "intel_car_detection.mp4"
    if path.is_file():
        from score_edge.runtime.sources.open_source import sample_clip

        return np.stack([frame.image for frame in sample_clip(path, 2, 8)])
    y, x, t = np.meshgrid(np.arange(360), np.arange(640), np.arange(8), indexing="ij")
    waves = [np.sin(x / 17 + t), np.cos(y / 11 - t), np.sin((x + y) / 29 + 2 * t)]
    return (np.stack(waves, axis=-1) * 120 + 128).astype(np.uint8).transpose(2, 0, 1, 3)
