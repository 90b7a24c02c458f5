"""Reading the files of a checkpoint, in the forms the hub has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.export.checkpoint import QUESTION, Checkpoint
from score_edge.export.family import find_family, split_chat

CLIP = [0.48145466, 0.4578275, 0.40821073]
HALF = [0.5, 0.5, 0.5]


def write(folder: Path, **files: Any) -> Checkpoint:
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return Checkpoint(str(folder), folder, files["config"]["model_type"])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (  # Qwen2.5-VL: no filter named, the class knows it
            {
                "config": {"model_type": "qwen2_5_vl"},
                "preprocessor_config": {
                    "image_processor_type": "Qwen2VLImageProcessor",
                    "min_pixels": 3136,
                    "max_pixels": 12845056,
                    "patch_size": 14,
                    "temporal_patch_size": 2,
                    "merge_size": 2,
                    "image_mean": CLIP,
                    "image_std": CLIP,
                },
            },
            {"resample": 3, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "image_mean": CLIP},
        ),
        (  # Qwen3-VL: a fast processor and a video processor of its own
            {
                "config": {"model_type": "qwen3_vl"},
                "preprocessor_config": {
                    "image_processor_type": "Qwen2VLImageProcessorFast",
                    "patch_size": 16,
                    "image_mean": HALF,
                    "image_std": HALF,
                },
                "video_preprocessor_config": {"video_processor_type": "Qwen3VLVideoProcessor", "fps": 2},
            },
            {"resample": 3, "patch_size": 16, "merge_size": 2, "image_std": HALF, "fps": 2},
        ),
        (  # SmolVLM2: sampling inside the image processor's file
            {
                "config": {"model_type": "smolvlm"},
                "preprocessor_config": {
                    "image_processor_type": "SmolVLMImageProcessor",
                    "resample": 1,
                    "max_image_size": {"longest_edge": 512},
                    "size": {"longest_edge": 2048},
                    "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
                    "image_mean": HALF,
                    "image_std": HALF,
                },
            },
            {"resample": 1, "max_image_size": {"longest_edge": 512}, "rescale_factor": pytest.approx(1 / 255)},
        ),
        (  # everything in one file, as transformers 5 writes it
            {
                "config": {"model_type": "internvl"},
                "processor_config": {
                    "image_processor": {"image_processor_type": "GotOcr2ImageProcessorFast", "image_mean": CLIP},
                    "video_processor": {"video_processor_type": "InternVLVideoProcessor", "image_mean": HALF},
                },
            },
            {"resample": 3, "image_mean": HALF},
        ),
    ],
)
def test_processors_as_the_hub_has_them(files: Any, expected: Any, tmp_path: Path) -> None:
    found = write(tmp_path, **files).processing
    assert {key: found[key] for key in expected} == expected


def test_of_two_files_the_one_that_transformers_reads(tmp_path: Path) -> None:
    """Saving with transformers 5 leaves the older files of the folder where they are, and reads its own."""
    import transformers

    older = {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": CLIP, "image_std": CLIP, "fps": 4}
    nested = {"image_processor": {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": HALF}}
    made = write(tmp_path, config={"model_type": "qwen2_vl"}, preprocessor_config=older, processor_config=nested)
    found = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert list(found.image_mean) == HALF
    assert list(made.normalisation["mean"]) == HALF
    assert list(made.normalisation["std"]) == pytest.approx(found.image_std)
    nested = {"video_processor": {"fps": 1}}
    video = {"image_mean": HALF, "fps": 2}
    made = write(
        tmp_path,
        config={"model_type": "qwen2_vl"},
        preprocessor_config=older,
        video_preprocessor_config=video,
        processor_config=nested,
    )
    assert (made.setting("image_mean"), made.setting("fps")) == (CLIP, 1)


def test_a_setting_that_is_nowhere(tmp_path: Path) -> None:
    config = {"model_type": "internvl"}
    made = write(tmp_path, config=config, preprocessor_config={"image_processor_type": "GotOcr2ImageProcessor"})
    with pytest.raises(ScoreEdgeError, match="its processor's config has no patch_size"):
        made.setting("patch_size")
    assert made.setting("patch_size", 3) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 0}, "resizes with filter 0"),
        ({"rescale_factor": 1.0}, "rescales by 1.0"),
        ({"do_rescale": False}, "rescales by 1.0"),
    ],
)
def test_preprocessing_that_the_runtime_cannot(change: Any, message: str, tmp_path: Path) -> None:
    processor = {"image_processor_type": "GotOcr2ImageProcessor", **change}
    made = write(tmp_path, config={"model_type": "internvl"}, preprocessor_config=processor)
    with pytest.raises(ScoreEdgeError, match=message):
        _ = made.normalisation


@pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json", "tokenizer"])
def test_where_a_chat_template_may_be(file: str, tmp_path: Path, make_tokenizer: Any) -> None:
    made = write(tmp_path, config={"model_type": "internvl"})
    template = "{% for m in messages %}[{% for c in m.content %}{{ c.text or '<video>' }}{% endfor %}]{% endfor %}"
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    if file == "tokenizer":
        tokenizer.chat_template = template
    else:
        content = template if file.endswith("jinja") else json.dumps({"chat_template": template})
        (tmp_path / file).write_text(content)
    assert made.chat(tokenizer) == f"[<video>{QUESTION}]"
    prompt = split_chat(made, tokenizer, "<video>")
    assert (prompt.before, prompt.after) == ("[", "{question}]")


def test_no_chat_template(tmp_path: Path, make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ScoreEdgeError, match="has no chat template"):
        write(tmp_path, config={"model_type": "internvl"}).chat(tokenizer)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision", "internvl"])
def test_a_family_answers_to_its_name(name: str) -> None:
    assert find_family(name).name == name


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_normalize": False}, {"image_mean": 0.5, "image_std": 0.25}],
    ids=["usual", "none", "one number"],
)
def test_pixels_are_normalised_as_transformers_does_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    import transformers

    processor = {"image_processor_type": "Qwen2VLImageProcessor", "image_mean": CLIP, "image_std": HALF, **settings}
    checkpoint = write(tmp_path, config={"model_type": "qwen2_vl"}, preprocessor_config=processor)
    reference = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    grey = np.full((56, 56, 3), 100, np.uint8)
    patch = np.asarray(reference(images=[grey], return_tensors="np")["pixel_values"])[0].reshape(3, -1)
    found = checkpoint.normalisation
    expected = (100 / 255 - np.array(found["mean"])) / np.array(found["std"])
    np.testing.assert_allclose(patch, np.broadcast_to(expected[:, None], patch.shape), atol=1e-6)


@pytest.mark.parametrize("weights", [None, [], "model.safetensors", {"a": 3}])
def test_an_index_of_another_kind_is_no_traceback(tmp_path: Path, weights: Any) -> None:
    write(
        tmp_path,
        config={"model_type": "qwen2_vl", "vision_config": {}},
        **{"model.safetensors.index": {"weight_map": weights}},
    )
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ScoreEdgeError, match=r"its configs lack something|lacks 3, which its index names"):
        Checkpoint.open(str(tmp_path))
