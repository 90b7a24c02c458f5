"""Every claim of `export --list`: what a row says is what its case, its code and its published sizes say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from score_edge import cli
from score_edge.families import AGAIN, ROWS, FamilyRow

pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import FAMILIES, find_family

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PATCHES_16 = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, **HALF}
# Of published checkpoints, the smallest of each kind: what their files say of the frame.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ({"vision_config": {"patch_size": 14}}, {"image_processor_type": "Qwen2VLImageProcessor"}),
    "qwen2_5_vl": ({"vision_config": {"patch_size": 14}}, {"image_processor_type": "Qwen2VLImageProcessor"}),
    "qwen3_vl": ({"vision_config": {"patch_size": 16, "deepstack_visual_indexes": [5, 11, 17]}}, PATCHES_16),
    "cosmos_reason2": ({"vision_config": {"patch_size": 16, "deepstack_visual_indexes": [5, 11, 17]}}, PATCHES_16),
    "qwen3_5": ({"vision_config": {"patch_size": 16}}, PATCHES_16),
    "smolvlm": (
        {"vision_config": {"image_size": 512, "patch_size": 16}, "scale_factor": 4},
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "max_image_size": {"longest_edge": 512},
            "size": {"longest_edge": 2048},
            **HALF,
        },
    ),
    "llava_onevision": (
        {"vision_config": {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}},
        {"image_processor_type": "LlavaOnevisionImageProcessor", **HALF},
    ),
    "internvl": (
        {"vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}, "downsample_ratio": 0.5},
        {"image_processor_type": "GotOcr2ImageProcessor"},
    ),
    "internvl3_5": (
        {"vision_config": {"image_size": [448, 448], "patch_size": [14, 14]}, "downsample_ratio": 0.5},
        {"image_processor_type": "GotOcr2ImageProcessor"},
    ),
    "gemma4": (
        {"vision_config": {"patch_size": 16, "pooling_kernel_size": 3}},
        {"image_processor_type": "Gemma4ImageProcessor", "max_soft_tokens": 280},
    ),
    "lfm2_vl": (
        {"vision_config": {"model_type": "siglip2_vision_model", "patch_size": 16}, "downsample_factor": 2},
        {"image_processor_type": "Lfm2VlImageProcessorFast", "max_image_tokens": 256, "resample": 2, **HALF},
    ),
    "fast_vlm": (
        {"vision_config": {"model_type": "timm_wrapper", "architecture": "fastvit_mci3", "label_names": ["none"]}},
        {
            "image_processor_type": "LlavaImageProcessor",
            "size": {"shortest_edge": 1024},
            "crop_size": {"height": 1024, "width": 1024},
        },
    ),
}


def test_the_rows_are_the_families_and_their_cases(families: tuple[str, ...]) -> None:
    """`families` is what tests/export/test_families.py, test_learning.py and test_adapters.py go through."""
    assert sorted(row.case for row in ROWS) == sorted(families) and len(ROWS) == 12
    assert {row.family for row in ROWS} == {*FAMILIES}
    assert all(row.learnable == row.adaptable == "yes" and row.live in ("yes", AGAIN) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_the_frame_and_its_tokens(row: FamilyRow, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if row.family == "fast_vlm":
        request.getfixturevalue("timm")
    config, processor = PUBLISHED[row.case]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": row.family, **config}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    if row.family == "gemma4":
        (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"max_soft_tokens": 70}))
    family = find_family(row.family)
    vision = family.vision(Checkpoint(row.case, tmp_path, row.family), None, None)
    assert ((vision.width, vision.height), vision.token_grid.tokens) == (row.frame, row.tokens)
    assert family.incremental == row.incremental


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_the_decoder_and_how_old_steps_leave(row: FamilyRow, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from score_edge.export.gguf_check import Gguf
    from score_edge.export.gguf_model import write_gguf
    from score_edge.runtime.language.base import Rows
    from score_edge.runtime.language.llama_cpp import LlamaCpp

    case = request.getfixturevalue(f"{row.case}_case")
    path = write_gguf(case.model, case.tokenizer, tmp_path / "llm.gguf", dtype="f32")
    assert Gguf.read(path).architecture == row.decoder
    with LlamaCpp(path, context=256, threads=1) as model:
        assert model.capabilities.incremental
        sequence = model.sequence()
        sequence.append("What moved?")
        here = sequence.mark()
        places = np.zeros((4, 3), np.int32)
        places[:, 2] = np.arange(4)
        sequence.append(Rows(np.zeros((4, model.capabilities.width), np.float32), places, 4), " There.")
        assert sequence.forget(here.position, here.position + 4, 4) == (row.live != AGAIN)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    done = CliRunner().invoke(cli.app, ["export", "--list"], env={"COLUMNS": "220"})
    assert done.exit_code == 0
    for row in ROWS:
        (line,) = [line for line in done.stdout.splitlines() if f" {row.checkpoints} " in line]
        assert line.split()[0] == row.family and f" {row.tokens} " in line and row.live in line


def test_the_page_has_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    for row in ROWS:
        name = row.checkpoints.split(" (")[0].split(",")[0]
        assert any(line.startswith(f"| `{row.family}` | {name}") for line in lines), row
