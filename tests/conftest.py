"""A small random Qwen2-VL with a real byte-level BPE tokenizer, and its GGUF files; torch is imported only on use."""

import importlib.util
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

# What a shell starts with & ignores Ctrl-C, and so would every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

SENTENCES = [
    "What moved in the video? The red ball moved to the left, then it stopped.",
    "Which object appeared briefly? A blue square appeared for two steps and vanished.",
    "How many things stand still in the scene? There are three of them, don't you think?",
    "Describe the colour, the shape and the direction of what moved first.",
] * 4
# In the order Qwen2Tokenizer numbers them, so that training the vocabulary does not move their ids.
SPECIAL = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


class Tiny(NamedTuple):
    model: Any
    tokenizer: Any


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An Orin and a TensorRT that are none: see fake_gpu.py and fake_tensorrt.py."""
    spec = importlib.util.spec_from_file_location("fake_gpu", Path(__file__).with_name("fake_gpu.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "fakes"
    folder.mkdir()
    return module.install(folder, monkeypatch)


@pytest.fixture(scope="session")
def gpu() -> Any:
    """The first NVIDIA GPU; without one the test skips. Such tests are run by tools/on_gpu.sh."""
    from score_edge.runtime.graphs.cuda_driver import cuda_devices, require_gpu

    found = cuda_devices()
    if isinstance(found, str):
        pytest.skip(found)
    return require_gpu("this")


@pytest.fixture(scope="session")
def quantised() -> Callable[..., Any]:
    """A bundle with a Q/DQ encoder: see `_quantised`."""
    return _quantised


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Qwen2's normaliser and pre-tokenizer over merges learned from a few sentences, with these special tokens too."""

    def make(*special: str, **settings: Any) -> Any:
        tokenizers = pytest.importorskip("tokenizers")
        qwen2 = pytest.importorskip("transformers.models.qwen2.tokenization_qwen2")
        names = [*SPECIAL, *(name for name in special if name not in (*SPECIAL, settings.get("bos_token")))]
        tokenizer = qwen2.Qwen2Tokenizer(eos_token=SPECIAL[1], additional_special_tokens=names[2:], **settings)
        if "bos_token" in settings:
            names.insert(1, settings["bos_token"])
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=393 + len(names),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=names,
            show_progress=False,
        )
        tokenizer.backend_tokenizer.train_from_iterator(SENTENCES, trainer)
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    """The tokenizer of the Qwen models below."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def randomize() -> Callable[[Any], Any]:
    """A model's decoder with weights that show: see `_randomize`."""
    return _randomize


@pytest.fixture(scope="session")
def qwen2_vl(tokenizer: Any) -> Tiny:
    """M-RoPE, untied head."""
    transformers = pytest.importorskip("transformers")
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    config = transformers.Qwen2VLConfig(
        text_config={
            **SHAPE,
            "vocab_size": len(tokenizer) + 5,
            "rope_parameters": {**ROPE, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 128, "patch_size": 4},
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
        **ids,
    )
    return Tiny(_randomize(transformers.Qwen2VLForConditionalGeneration(config)), tokenizer)


@pytest.fixture(scope="session")
def qwen2(tokenizer: Any) -> Tiny:
    """Plain RoPE, head tied to the embeddings."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        **SHAPE, vocab_size=len(tokenizer), rope_parameters=ROPE, tie_word_embeddings=True, use_sliding_window=False
    )
    return Tiny(_randomize(transformers.Qwen2ForCausalLM(config)), tokenizer)


@pytest.fixture(scope="session")
def gguf_files(qwen2_vl: Tiny, qwen2: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both models as files: ``f32``, ``f16`` (Qwen2-VL) and ``plain`` (Qwen2, f32)."""
    pytest.importorskip("gguf")
    from score_edge.export.gguf_model import write_gguf

    folder = tmp_path_factory.mktemp("gguf")
    return {
        "f32": write_gguf(*qwen2_vl, folder / "f32.gguf", dtype="f32"),
        "f16": write_gguf(*qwen2_vl, folder / "f16.gguf", dtype="f16"),
        "plain": write_gguf(*qwen2, folder / "plain.gguf", dtype="f32"),
    }


def _randomize(model: Any) -> Any:
    """Weights large enough that logits are not flat, and norms and biases that would show if they were forgotten."""
    import torch

    generator = torch.Generator().manual_seed(0)
    scaled = getattr(model.get_decoder().embed_tokens, "scalar_embed_scale", 1.0)  # Gemma's, of what is looked up
    with torch.no_grad():
        for name, parameter in model.get_decoder().named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("bias") or parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * (1 / scaled if "embed" in name else 1.4 / parameter.shape[1] ** 0.5))
        head = model.get_output_embeddings().weight
        if head is not model.get_decoder().embed_tokens.weight:
            head.copy_(torch.randn(head.shape, generator=generator) * 2 / head.shape[1] ** 0.5)
    return model.float().eval()


def _quantised(bundle: Any, folder: Path, variant: Any = "s8s8") -> Any:
    """The bundle as `score-edge calibrate` writes it, every layer in INT8 and nothing measured."""
    import dataclasses

    from score_edge.bundle.folder import write_bundle
    from score_edge.bundle.int8 import Int8
    from score_edge.calibration.layers import find_layers
    from score_edge.calibration.quantize import expose, prepare, quantize
    from score_edge.calibration.ranges import collect_ranges
    from score_edge.onnx_files.save import save_onnx
    from score_edge.runtime.graphs.onnx_graph import OnnxGraph
    from score_edge.runtime.sources.sample_steps import sample_steps

    folder.mkdir()
    path, vision = folder / "encoder.onnx", bundle.manifest.vision
    model = prepare(bundle.encoder_path, folder)
    layers = find_layers(model)
    names = sorted({layer.activation for layer in layers})
    save_onnx(expose(model, names), folder / "exposed.onnx")
    ranges = collect_ranges(OnnxGraph(folder / "exposed.onnx"), names, sample_steps(vision, None), symmetric=True)
    save_onnx(quantize(model, layers, ranges, variant, folder), path)
    int8 = Int8("int8" if variant == "s8s8" else "int8-cpu", variant, "minmax", 2, 0, 2.0, 1.0)
    manifest = dataclasses.replace(bundle.manifest, vision=dataclasses.replace(vision, int8=int8, incremental=None))
    files = {name: place for name, place in bundle.paths.items() if place != bundle.incremental_path}
    return write_bundle(folder / "bundle", manifest, {**files, vision.graph.file: path})
