"""Small random checkpoints of real transformers classes, saved as their authors do, and what transformers makes of it.

A case knows the independent side of every comparison: pixels from the checkpoint's own PIL image processor, tokens and
logits from the full transformers model. Only positions are computed here, because transformers >= 5.3 lets text start
inside a video; see DESIGN.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def _load(name: str) -> ModuleType:
    """A file beside this one as a module of its own name: tests are no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_load("family_case")
from family_case import (  # noqa: E402
    CHAT,
    FOOT,
    HEAD,
    MROPE,
    PLAIN,
    QUESTION,
    QWEN,
    SIGLIP,
    Case,
    internvl,
    pixel_case,
    qwen_case,
    qwen_ids,
    text_config,
    timed_layout,
)

SHARED = Path(os.environ.get("SCORE_EDGE_SHARED", Path(__file__).parents[3] / "shared"))
globals().update({name: each for name, each in vars(_load("newer_cases")).items() if name.endswith("_case")})


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


@pytest.fixture(scope="session")
def timm() -> Any:
    """timm, whether torchvision works here or not."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("no timm: pip install --no-deps timm")
    spec = importlib.util.spec_from_file_location("fake_torchvision", Path(__file__).parents[1] / "fake_torchvision.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.import_timm()


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

    return qwen_case("qwen3_vl", model, tokenizer, save, (48, 80), layout=timed_layout)


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
    return internvl("internvl", {"model_type": "qwen2"}, make_tokenizer, save)


# Of most kinds one: M-RoPE and DeepStack, plain rows, a state that cannot go back, convolutions.
FAST = ["qwen3_vl", "smolvlm", "lfm2_vl", "fast_vlm"]
# Tracing their graphs takes most of the time: `make test-all`. Gemma 4 (per-layer inputs) takes the longest.
SLOW = ["gemma4", "qwen2_vl", "qwen2_5_vl", "cosmos_reason2", "qwen3_5", "llava_onevision", "internvl", "internvl3_5"]


@pytest.fixture(scope="session", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def case(request: pytest.FixtureRequest) -> Case:
    """Every family in turn."""
    pytest.importorskip("transformers")
    found: Case = request.getfixturevalue(f"{request.param}_case")
    found.model.eval()
    return found


@pytest.fixture
def plain_graph_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without the incremental graph, which takes as long again and has tests of its own."""
    from score_edge.export import bundle_export

    monkeypatch.setattr(bundle_export, "CellEncoder", ())


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
    return (*FAST, *SLOW)


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
