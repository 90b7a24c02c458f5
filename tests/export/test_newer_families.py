"""What the families of 2026 refuse, and where they part from their processors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.export.bundle_export import _size, export_bundle
from score_edge.export.checkpoint import Checkpoint
from score_edge.export.family import find_family
from score_edge.export.qwen2_vl import Qwen2VL
from score_edge.runtime.preprocess import Preprocessing


@pytest.mark.parametrize("shape", [(432, 768), (768, 432)])
def test_padding_first_or_last_differs_at_the_seam_only(clip: np.ndarray, shape: tuple[int, int]) -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    frame = np.ascontiguousarray(np.resize(clip[0], (*shape, 3)))
    side = {"height": 256, "width": 256}
    processor = LlavaImageProcessorPil(size=side, crop_size=side, do_pad=True)
    theirs = processor(images=[frame], return_tensors="np")["pixel_values"][0]
    mean, std = (tuple(value) for value in (processor.image_mean, processor.image_std))
    ours = Preprocessing(256, 256, 64, 1, 1, mean, std, layout="pixels", letterbox=True)
    apart = np.abs(ours.prepare([frame])["pixels"][0] - theirs).max(axis=0).max(axis=1 if shape[0] < shape[1] else 0)
    lines = np.flatnonzero(apart > 0.02)  # a step of 8 bits is 0.015
    seam = {*range(54, 58), *range(198, 202)}  # a frame of 144 in the middle of 256
    assert len(lines) and {*lines} <= seam


def test_a_large_gemma_is_refused(gemma4_case: Any, tmp_path: Path) -> None:
    for path in gemma4_case.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["use_bidirectional_attention"] = "vision"
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(str(tmp_path))
    with pytest.raises(ScoreEdgeError, match="large Gemma 4: its visual tokens attend to each other"):
        find_family("gemma4").vision(checkpoint, None, None)


@pytest.mark.parametrize("missing", ["std_scale", "patch_embedder.position_embedding_table"])
def test_what_is_no_parameter_may_not_be_missing_either(missing: str, gemma4_case: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(gemma4_case.folder, tmp_path / "checkpoint"))
    weights = load_file(folder / "model.safetensors")
    del weights[f"model.vision_tower.{missing}"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ScoreEdgeError, match=f"1 weights of the vision encoder are missing .*{missing}"):
        Checkpoint.open(str(folder)).load(find_family("gemma4").model_class)


@pytest.mark.parametrize("layers", [2, 1])
def test_as_many_deepstack_levels_as_layers_are_refused(qwen3_vl_case: Any, tmp_path: Path, layers: int) -> None:
    """llama.cpp would add a level behind the last layer; its GGUF says the same, so nothing else finds it."""
    import copy

    from score_edge.export.gguf_model import write_gguf

    model = copy.deepcopy(qwen3_vl_case.model)
    model.config.text_config.num_hidden_layers = layers
    del model.model.language_model.layers[layers:]
    model.save_pretrained(tmp_path / "checkpoint")
    for path in qwen3_vl_case.folder.iterdir():
        if not (tmp_path / "checkpoint" / path.name).exists():
            (tmp_path / "checkpoint" / path.name).symlink_to(path)
    llm = write_gguf(model, qwen3_vl_case.tokenizer, tmp_path / "llm.gguf", dtype="f32")
    with pytest.raises(ScoreEdgeError, match=f"2 DeepStack levels for a decoder of {layers} layers"):
        export_bundle(str(tmp_path / "checkpoint"), tmp_path / "bundle", llm=llm)
    assert not (tmp_path / "bundle").exists()


def test_the_default_frame_has_the_tokens_of_the_checkpoint_at_16_to_9(gemma4_case: Any, lfm2_vl_case: Any) -> None:
    for case, grid in ((gemma4_case, (6, 11)), (lfm2_vl_case, (6, 10))):  # of 70 and 64 tokens at most
        family, checkpoint = find_family(case.name), Checkpoint.open(str(case.folder))
        assert family.vision(checkpoint, None, None).grid == grid
        with pytest.raises(ScoreEdgeError, match="no multiple of patch \\* merge"):
            family.vision(checkpoint, (100, 100), None)
        with pytest.raises(ScoreEdgeError, match="one frame per step"):
            family.vision(checkpoint, None, 2)


@pytest.mark.parametrize(
    ("aspect", "grid"),
    [((16, 9), (12, 21)), ((4, 3), (13, 17)), ((1, 1), (16, 16)), ((9, 16), (21, 12)), ((8, 1), (5, 40))],
)
def test_the_aspect_of_the_camera(
    qwen2_vl_case: Any, aspect: tuple[int, int], grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At no more than the tokens of the square, and as near to the aspect as whole rows and columns come."""
    monkeypatch.setattr(Qwen2VL, "tokens", lambda self, checkpoint: 256)
    family, checkpoint = find_family("qwen2_vl"), Checkpoint.open(str(qwen2_vl_case.folder))
    vision = family.vision(checkpoint, family.size(checkpoint, aspect), None)
    assert vision.grid == grid and vision.letterbox


def test_a_family_with_a_frame_of_its_own_takes_no_aspect(internvl_case: Any) -> None:
    family, checkpoint = find_family("internvl"), Checkpoint.open(str(internvl_case.folder))
    assert _size(family, checkpoint, None) is None
    with pytest.raises(ScoreEdgeError, match="takes no aspect"):
        _size(family, checkpoint, (4, 3))
    assert not family.vision(checkpoint, None, None).letterbox


def test_an_experts_decoder_is_refused(internvl3_5_case: Any, tmp_path: Path) -> None:
    for path in internvl3_5_case.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] = {"model_type": "qwen3_moe"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    llm = tmp_path / "llm.gguf"
    from score_edge.export.gguf_model import write_gguf

    write_gguf(internvl3_5_case.model, internvl3_5_case.tokenizer, llm)
    with pytest.raises(ScoreEdgeError, match="the text model 'qwen3_moe' is not known here"):
        export_bundle(str(tmp_path), tmp_path / "bundle", llm=llm)


def test_a_package_that_a_family_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ScoreEdgeError, match=r"timm is not installed.*\n.*score-edge\[fast-vlm\]"):
        find_family("fast_vlm")
