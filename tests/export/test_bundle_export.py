"""What `score-edge export` refuses, and that nothing is left behind when it does."""

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("gguf")

from score_edge.export import bundle_export
from score_edge.export.bundle_export import export_bundle
from score_edge.export.gguf_model import write_gguf


@pytest.fixture(scope="module")
def llm(qwen2_vl_case: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    case = qwen2_vl_case
    return write_gguf(case.model, case.tokenizer, tmp_path_factory.mktemp("llm") / "llm.gguf", dtype="f32")


@pytest.fixture
def checkpoint(qwen2_vl_case: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2_vl_case.folder, tmp_path / "checkpoint"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def text_only(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.pop("vision_config"))


def unknown(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(model_type="qwen2_5vl"))


def cut_off(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    weights(folder).write_bytes(weights(folder).read_bytes()[:20])


def damaged_header(folder: Path) -> None:
    weights(folder).write_bytes(struct.pack("<Q", 8) + b"notjson!" + bytes(64))


def odd_header(text: bytes) -> Callable[[Path], object]:
    return lambda folder: weights(folder).write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


def pickled(folder: Path) -> None:
    weights(folder).rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    weights(folder).unlink()


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_tower(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    kept = {key: value for key, value in load_file(weights(folder)).items() if "visual.blocks.1." not in key}
    save_file(kept, weights(folder), metadata={"format": "pt"})


def plain_chat(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")


def quantised(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "quantization_config": {"quant_method": "awq"}}))
    weights(folder).unlink()  # said whatever its weights look like


def processing(**settings: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for file in ("preprocessor_config.json", "processor_config.json"):
            if (folder / file).is_file():
                edit(folder / file, lambda config: config.get("image_processor", config).update(settings))

    return spoil


def no_such_token(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(video_token_id=-1))


def odd_decoder(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config["text_config"].update(model_type=[]))


def vision(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda config: config["vision_config"].update(settings))


def bias_left_over(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    held = load_file(weights(folder))
    held["model.visual.patch_embed.proj.bias"] = np.zeros(32, np.float32)
    save_file(held, weights(folder), metadata={"format": "pt"})


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text-only": (text_only, "is a text-only checkpoint: its config.json has no vision_config"),
    "unknown family": (unknown, r"did you mean qwen2_5_vl\? known: qwen2_vl, "),
    "quantised": (quantised, r"is a quantised checkpoint \(awq\).*\n.*give the checkpoint it was made from"),
    "cut off": (cut_off, r"model\.safetensors is cut off: \d+ bytes of \d+"),
    "cut header": (cut_header, "is cut off or no safetensors file"),
    "damaged header": (damaged_header, "its header cannot be read"),
    "no end": (odd_header(b'{"a": {"data_offsets": []}}'), "its header cannot be read"),
    "deep header": (odd_header(b"[" * 100_000), "its header cannot be read"),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "cannot be read"),
    "pickle only": (pickled, r"as a pickle only \(pytorch_model\.bin\)"),
    "no weights": (no_weights, "has no weights"),
    "missing shard": (missing_shard, "lacks model-00002-of-00002"),
    "odd setting": (
        processing(patch_size="large"),
        "its configs lack something, or hold what does not belong there: ValueError: .*large",
    ),
    "nothing merged": (processing(merge_size=0), "what does not belong there: ZeroDivisionError"),
    "frames below none": (processing(temporal_patch_size=-1), "vision.frames_per_step must be above 0, not -1"),
    "no such token": (no_such_token, "what does not belong there: OverflowError"),
    "odd decoder": (odd_decoder, "what does not belong there: TypeError"),
    "not json": (not_json, r"config\.json cannot be read"),
    "no encoder": (
        no_tower,
        r"12 weights of the vision encoder are missing or misshapen, first model\.visual\.blocks\.1",
    ),
    "wider config": (
        vision(embed_dim=64),
        r"30 weights .* misshapen, first model\.visual\.blocks\.0.*\n.*another model",
    ),
    "layers that are no number": (
        vision(depth="x"),
        r"Validation error for field 'depth': TypeError: Field 'depth' expected int, got str",
    ),
    "more layers in the config": (vision(depth=3), r"12 weights of the vision encoder are missing or misshapen, first"),
    "fewer layers in the config": (
        vision(depth=1),
        r"names fewer layers or biases than it has weights for: 12 would be left out, first model\.visual\.blocks\.1",
    ),
    "no layers in the config": (vision(depth=-1), "24 would be left out"),
    "bias left over": (bias_left_over, r"1 would be left out, first model\.visual\.patch_embed\.proj\.bias"),
    "heads that do not divide": (
        vision(num_heads=3),
        r"checkpoint/config\.json: a vision encoder of this vision_config and these weights does not run: RuntimeError"
        r"(.|\n)*look at its numbers of heads",
    ),
    "no video in the chat": (plain_chat, r"does not put <\|video_pad\|> before the question"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_that_are_refused(case: str, checkpoint: Path, llm: Path, tmp_path: Path) -> None:
    spoil, message = CHECKPOINTS[case]
    spoil(checkpoint)
    with pytest.raises(ScoreEdgeError) as caught:
        export_bundle(str(checkpoint), tmp_path / "out" / "bundle", llm=llm)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


def test_a_checkpoint_made_of_links_is_read(checkpoint: Path, tmp_path: Path) -> None:
    """As the Hugging Face cache keeps it."""
    from score_edge.export.checkpoint import Checkpoint

    linked = tmp_path / "snapshots" / "0123"
    linked.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (linked / path.name).symlink_to(path)
    assert Checkpoint.open(str(linked)).config.model_type == Checkpoint.open(str(checkpoint)).config.model_type
    weights(checkpoint).unlink()
    with pytest.raises(ScoreEdgeError):
        Checkpoint.open(str(linked))


def test_a_folder_that_is_not_there(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match="there is no folder"):
        export_bundle(str(tmp_path / "nowhere"), tmp_path / "bundle", llm=llm)


def test_ggufs_that_are_refused(checkpoint: Path, llm: Path, tmp_path: Path, gguf_files: dict[str, Path]) -> None:
    for path, message in (
        (gguf_files["f32"], "is not the language model of this checkpoint: its hidden size is 128, not 64"),
        (gguf_files["plain"], "its architecture is qwen2, not qwen2vl"),
        (tmp_path / "none.gguf", "no model file"),
    ):
        with pytest.raises(ScoreEdgeError, match=message):
            export_bundle(str(checkpoint), tmp_path / "bundle", llm=path)
    (tmp_path / "part-00002-of-00002.gguf").write_bytes(llm.read_bytes())
    with pytest.raises(ScoreEdgeError, match="is part 2 of 2 of a split model"):
        export_bundle(str(checkpoint), tmp_path / "bundle", llm=tmp_path / "part-00002-of-00002.gguf")
    (tmp_path / "part-00001-of-00002.gguf").write_bytes(llm.read_bytes())
    (tmp_path / "part-00002-of-00002.gguf").write_bytes(llm.read_bytes()[:400])
    with pytest.raises(ScoreEdgeError, match=r"part-00002-of-00002\.gguf is no complete GGUF"):
        export_bundle(str(checkpoint), tmp_path / "bundle", llm=tmp_path / "part-00001-of-00002.gguf")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(llm.read_bytes()[:500])
    with pytest.raises(ScoreEdgeError, match="is no complete GGUF"):
        export_bundle(str(checkpoint), tmp_path / "bundle", llm=damaged)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("qwen2vl.block_count", "two", "is no complete GGUF: its block_count is 'two'"),
        ("qwen2vl.embedding_length", 1.5, "is no complete GGUF: its embedding_length is 1.5"),
        ("tokenizer.ggml.tokens", "none", "is no language model"),
    ],
)
def test_a_gguf_whose_header_holds_something_else(key: str, value: Any, message: str, tmp_path: Path) -> None:
    import gguf

    from score_edge.export.gguf_check import Gguf

    kinds = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32}
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "qwen2vl")
    for name in ("block_count", "embedding_length"):
        writer.add_uint32(f"qwen2vl.{name}", 4)
    writer.add_token_list(["a", "b"])
    writer.kv_data[0][key] = gguf.GGUFValue(value, kinds[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ScoreEdgeError, match=message):
        Gguf.read(tmp_path / "odd.gguf")


def test_a_gguf_with_other_special_tokens(
    checkpoint: Path, qwen2_vl_case: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    # As many tokens, in another order.
    other = make_tokenizer("<|other|>")
    model = qwen2_vl_case.model
    path = write_gguf(model, other, tmp_path / "other.gguf", dtype="f32")
    from score_edge.export.checkpoint import Checkpoint
    from score_edge.export.gguf_check import Gguf, check_gguf

    opened = Checkpoint.open(str(checkpoint))
    tokenizer = make_tokenizer("<|another|>")
    with pytest.raises(ScoreEdgeError, match=r"its token \d+ is '<\|other\|>', not '<\|another\|>'"):
        check_gguf(Gguf.read(path), opened.config, tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (50, 80)}, "80x50 pixels are no multiple of patch \\* merge = 8"),
        ({"frames_per_step": 3}, "a step of qwen2_vl has 1 or 2 frames, not 3"),
    ],
)
def test_sizes_that_are_refused(settings: Any, message: str, checkpoint: Path, llm: Path, tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match=message):
        export_bundle(str(checkpoint), tmp_path / "bundle", llm=llm, **settings)


def test_a_target_in_the_way_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ScoreEdgeError, match="already exists"):
        export_bundle("no/checkpoint", tmp_path / "bundle", llm="no.gguf")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_is_left_of_an_export_that_broke_off(
    error: Any, checkpoint: Path, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(module: Any, example: Any, output: str, path: Path, **more: Any) -> None:
        path.write_bytes(b"half a graph")
        raise error

    monkeypatch.setattr(bundle_export, "export_onnx", break_off)
    target = tmp_path / "out" / "bundle"
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else ScoreEdgeError) as caught:
        export_bundle(str(checkpoint), target, llm=llm)
    assert error is KeyboardInterrupt or caught.value.hint == "free some disk space"
    assert not (tmp_path / "out").exists()


def test_a_full_disk(checkpoint: Path, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_export, "export_onnx", lambda *given, **more: given[3].write_bytes(bytes(200_000)))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        with pytest.raises(ScoreEdgeError, match="No space left on device"):
            export_bundle(str(checkpoint), disk / "bundle", llm=llm, size=(48, 80))
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_policy_becomes_the_selector_if_it_fits(
    checkpoint: Path, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_graph_only: None
) -> None:
    from score_edge.export.policy_graph import PolicyNetwork, export_policy

    for width in (64, 32):
        export_policy(PolicyNetwork(width, hidden=4), tmp_path / f"{width}.onnx")
    monkeypatch.setattr(bundle_export, "export_onnx", lambda *given, **more: given[3].write_bytes(b"graph") and [])
    made = export_bundle(str(checkpoint), tmp_path / "bundle", llm=llm, policy=tmp_path / "64.onnx")
    assert made.bundle.manifest.selector.name == "score"
    assert made.bundle.policy_path is not None and not any("last-kept" in note for note in made.notes)
    plain = export_bundle(str(checkpoint), tmp_path / "plain", llm=llm)
    assert plain.bundle.manifest.selector.name == "last-kept" and any("last-kept" in note for note in plain.notes)
    with pytest.raises(ScoreEdgeError, match=r"policy graph: input tokens has the shape .*32"):
        export_bundle(str(checkpoint), tmp_path / "other", llm=llm, policy=tmp_path / "32.onnx")


def test_half_precision_and_one_frame_per_step(checkpoint: Path, llm: Path, tmp_path: Path, clip: np.ndarray) -> None:
    from score_edge.runtime.graphs.onnx_graph import OnnxGraph
    from score_edge.runtime.preprocess import Preprocessing

    options = {"llm": llm, "size": (48, 80), "frames_per_step": 1}
    half = export_bundle(str(checkpoint), tmp_path / "half", precision="fp16", **options)  # type: ignore[arg-type]
    assert 0 < max(row.relative for row in half.differences) < 2e-2
    assert half.bundle.encoder_path.stat().st_size < 250_000
    vision = half.bundle.manifest.vision
    assert vision.frames_per_step == 1 and vision.patch_values == 48
    frame = Preprocessing.of(vision).prepare(clip[:1])
    assert OnnxGraph(half.bundle.encoder_path).run(**frame)["tokens"].dtype == np.float32
    with pytest.raises(ScoreEdgeError, match="allow more with --tolerance"):
        export_bundle(str(checkpoint), tmp_path / "no", precision="fp16", tolerance=1e-7, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "no").exists()


def test_a_frame_of_one_token_is_encoded_as_a_whole(checkpoint: Path, llm: Path, tmp_path: Path) -> None:
    made = export_bundle(str(checkpoint), tmp_path / "bundle", llm=llm, size=(8, 8))
    vision = made.bundle.manifest.vision
    assert vision.grid == (1, 1) and vision.incremental is None


def test_a_still_step_is_a_step_of_two_equal_frames(qwen2_vl_case: Any) -> None:
    import torch

    from score_edge.export.qwen2_vl import StepEncoder

    visual = qwen2_vl_case.model.model.visual
    patches = torch.randn(64, 3, 1, 16)
    with torch.no_grad():
        both = StepEncoder(visual, 8, 8)(patches.expand(-1, -1, 2, -1).flatten(1))
        still = StepEncoder(visual, 8, 8, frames=1)(patches.flatten(1))
    assert torch.allclose(both, still, atol=1e-5)
