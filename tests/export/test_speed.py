"""What an export costs and how fast its graph is, at the size of real encoders. Run on its own: ``make benchmark``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

# In a process of its own, whose peak of memory is the export's.
EXPORT = """
import json, resource, sys, time
from pathlib import Path
import onnxruntime, torch, transformers
from score_edge.bundle.manifest import Vision
from score_edge.export.bundle_export import export_encoder
from score_edge.export.family import ENCODER, find_family
from score_edge.export.incremental import CellEncoder, export_incremental

family, config, sizes = json.loads(sys.argv[1])
if family == "fast_vlm":
    sys.path.insert(0, sys.argv[4])
    from fake_torchvision import import_timm
    import_timm()
path, runs = Path(sys.argv[2]), int(sys.argv[3])
found = find_family(family)
model_class = getattr(transformers, found.model_class)
model = model_class(model_class.config_class(**config)).eval()
if family == "fast_vlm":  # timm's initial weights let nothing through
    for parameter in model.model.vision_tower.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
half = (0.5, 0.5, 0.5)
width = model.config.text_config.hidden_size
vision = Vision(graph=ENCODER, mean=half, std=half, resample="bicubic", fps=1.0, dim=width, **sizes)
module = found.encoder(model, vision).eval()
began, cpu = time.perf_counter(), time.process_time()
rows = export_encoder(module, vision, path)
plain = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
if isinstance(module, CellEncoder):
    rows += export_incremental(module, vision, path.with_name("incremental.onnx"))
found = {
    "seconds": time.perf_counter() - began,
    "cpu_seconds": time.process_time() - cpu,
    "rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    "plain_seconds": plain[0],
    "plain_rss_gib": plain[1],
    "parameters": sum(p.numel() for name, p in module.named_parameters() if "language_model" not in name),
    "relative": max(row.relative for row in rows),
}
pixels = torch.randn(vision.input_shape)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = torch.get_num_threads()
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(str(path), options)
times = {"onnx": [], "torch": []}
with torch.no_grad():
    for _ in range(runs):
        for name, run in (
            ("onnx", lambda: session.run(None, {session.get_inputs()[0].name: pixels.numpy()})),
            ("torch", lambda: module(pixels)),
        ):
            cpu = time.process_time()
            run()
            times[name].append(time.process_time() - cpu)
found |= {name: min(seconds) for name, seconds in times.items()}
print(json.dumps(found))
"""
NO_DECODER = {"vocab_size": 8, "num_hidden_layers": 1, "intermediate_size": 64}
QWEN2 = {"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14, "num_key_value_heads": 2, **NO_DECODER}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
QWEN_TOWER = {"spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 16}


def qwen(family: str, patch: int, width: int, heads: int, encoder: dict[str, Any], text: dict[str, Any]) -> list[Any]:
    config = {
        "vision_config": {**QWEN_TOWER, "patch_size": patch, **encoder},
        "text_config": {
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            **NO_DECODER,
            **text,
        },
    }
    return [family, config, sizes(448, 448, patch, layout="patches", frames_per_step=2)]


def sizes(height: int, width: int, patch: int, merge: int = 2, **more: Any) -> dict[str, Any]:
    grid = [-(-(side // patch) // merge) for side in (height, width)]
    own = {"height": height, "width": width, "patch": patch, "merge": merge, "grid": grid}
    return {**own, "frames_per_step": 1, "layout": "pixels", **more}


def llava(encoder: dict[str, int], side: int, patch: int) -> list[Any]:
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, "image_size": side, "patch_size": patch}
    config = {"vision_config": {**vision, **encoder}, "text_config": QWEN2, "vision_feature_layer": -1}
    return ["llava_onevision", config, sizes(side, side, patch)]


def qwen3_5(depth: int, width: int, inner: int, heads: int, text: int) -> list[Any]:
    tower = {
        "depth": depth,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_heads": heads,
        "out_hidden_size": text,
    }
    config = {
        "vision_config": {**QWEN_TOWER, "patch_size": 16, "out_hidden_size": text, **tower},
        "text_config": {
            "hidden_size": text,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "layer_types": ["full_attention"],
            **NO_DECODER,
        },
    }
    return ["qwen3_5", config, sizes(320, 576, 16, layout="patches", frames_per_step=2)]


def lfm2_vl(encoder: dict[str, int], text: int) -> list[Any]:
    tower = {"model_type": "siglip2_vision_model", "num_patches": 256, "patch_size": 16, "vision_use_head": False}
    config = {
        "vision_config": {**tower, **encoder},
        "text_config": {
            "model_type": "lfm2",
            "hidden_size": text,
            "num_attention_heads": 16,
            "layer_types": ["full_attention"],
            "pad_token_id": None,
            **NO_DECODER,
        },
    }
    return ["lfm2_vl", config, sizes(384, 672, 16)]


# As published: encoders of InternVL3-1B and InternVL3.5-1B, Qwen3-VL-2B and Cosmos-Reason2-2B, Qwen2.5-VL-3B,
# Qwen2-VL-2B, Gemma 4 E2B and E4B, LFM2-VL-450M and -1.6B, Qwen3.5-0.8B and -4B, FastVLM-0.5B.
FULL_SIZE = {
    "internvl": [
        "internvl",
        {
            "vision_config": {
                "model_type": "internvl_vision",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": [448, 448],
                "patch_size": [14, 14],
            },
            "text_config": QWEN2,
        },
        sizes(448, 448, 14),
    ],
    "qwen3_vl": qwen(
        "qwen3_vl",
        16,
        2048,
        16,
        {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "deepstack_visual_indexes": [5, 11, 17],
            "out_hidden_size": 2048,
        },
        {"head_dim": 128},
    ),
    "qwen2_5_vl": qwen(
        "qwen2_5_vl",
        14,
        2048,
        16,
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 2048,
        },
        {},
    ),
    "qwen2_vl": qwen("qwen2_vl", 14, 1536, 12, {"depth": 32, "embed_dim": 1280, "hidden_size": 1536}, {}),
    "gemma4": [
        "gemma4",
        {
            "vision_config": {"use_clipped_linears": True, "standardize": True},
            "text_config": {"hidden_size": 1536, "vocab_size_per_layer_input": 8, **NO_DECODER},
        },
        sizes(288, 528, 16, 3),
    ],
    "lfm2_vl": lfm2_vl(BASE, 1024),
    "lfm2_vl-1.6b": lfm2_vl(SO400M, 2048),
    "qwen3_5": qwen3_5(12, 768, 3072, 12, 1024),
    "qwen3_5-4b": qwen3_5(24, 1024, 4096, 16, 2560),
    "fast_vlm": [
        "fast_vlm",
        {
            "vision_config": {
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "hidden_size": 3072,
                "label_names": ["none"],
                "model_args": {"inference_mode": True},
            },
            "text_config": QWEN2,
        },
        sizes(1024, 1024, 64, 1),
    ],
}


def measure(spec: list[Any], path: Path, runs: int) -> dict[str, Any]:
    command = [sys.executable, "-c", EXPORT, json.dumps(spec), str(path), str(runs), str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(" ".join(f"{name} {value:.3g}" for name, value in found.items()))
    return found


@pytest.mark.benchmark
def test_an_encoder_of_siglip_bases_size_at_224(tmp_path: Path) -> None:
    """CPU seconds, the smallest of six interleaved runs: other work on the machine stretches those of the clock."""
    found = measure(llava(BASE, 224, 16), tmp_path / "encoder.onnx", 6)
    assert found["cpu_seconds"] < 90
    assert found["onnx"] <= found["torch"]


@pytest.mark.benchmark
def test_the_memory_of_an_encoder_of_400_million_parameters(tmp_path: Path) -> None:
    found = measure(llava(SO400M, 384, 14), tmp_path / "encoder.onnx", 1)
    assert found["parameters"] > 400e6
    assert found["rss_gib"] < 8


@pytest.mark.benchmark
@pytest.mark.parametrize("family", FULL_SIZE)
def test_a_published_tower(family: str, tmp_path: Path) -> None:
    found = measure(FULL_SIZE[family], tmp_path / "encoder.onnx", 1)
    assert found["relative"] < 1e-4
