"""The language model outside of a bundle: whole, all parts of it, the one that was exported, with the RoPE it needs."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from score_edge.bundle.external import check_external, check_rope, find_model, model_parts, sealed_language
from score_edge.bundle.folder import MANIFEST, REFERENCE, Bundle, write_bundle
from score_edge.bundle.manifest import FileRef, Language
from score_edge.errors import ScoreEdgeError

SPLIT = [f"model-{i:05}-of-00003.gguf" for i in (1, 2, 3)]


@pytest.fixture(params=["whole", "split"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """The reference bundle with its model outside, in one file or in three."""
    names = SPLIT if request.param == "split" else ["model.gguf"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(b"GGUF" + bytes([i]) * 50)
    reference = Bundle.open("reference")
    inside = reference.manifest.language
    outside = Language(inside.positions, inside.context, inside.dim, path=str(tmp_path / names[0]))
    manifest = dataclasses.replace(reference.manifest, language=sealed_language(outside))
    files = {name: path for name, path in reference.paths.items() if not name.endswith(".gguf")}
    return write_bundle(tmp_path / "bundle", manifest, files)


def check(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.folder)
    check_external(opened.manifest.language, opened.folder / MANIFEST, checksums=True)


def last_part(bundle: Bundle) -> Path:
    return model_parts(bundle.gguf_path)[-1]


def truncate(bundle: Bundle) -> None:
    last_part(bundle).write_bytes(last_part(bundle).read_bytes()[:-1])


def swap(bundle: Bundle) -> None:
    last_part(bundle).write_bytes(b"G" * last_part(bundle).stat().st_size)


def test_a_whole_one_is_fine(bundle: Bundle) -> None:
    check(bundle)
    assert len(bundle.manifest.language.parts) == len(model_parts(bundle.gguf_path))


def copied(bundle: Bundle, board: Path) -> Bundle:
    """The bundle and its model on another machine, side by side."""
    shutil.copytree(bundle.folder, board / "bundle")
    for part in model_parts(bundle.gguf_path):
        shutil.move(part, board / part.name)
    return Bundle.open(board / "bundle")


def test_copied_to_another_machine_the_model_is_found_beside_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    there = copied(bundle, tmp_path / "board")
    check(there)
    assert there.gguf_path.parent == tmp_path / "board"
    derived = write_bundle(tmp_path / "policy" / "bundle", there.manifest, there.paths)
    assert derived.gguf_path == there.gguf_path


def test_where_this_user_may_not_look_the_model_is_found_beside_the_bundle(elsewhere: Path) -> None:
    """As under /root of the machine where it was exported."""
    (elsewhere / "model.gguf").touch()
    language = Language("plain", 64, 8, path=str(elsewhere / "locked" / "model.gguf"))
    assert find_model(language, elsewhere / "bundle").path == str(elsewhere / "model.gguf")


def test_another_file_of_that_name_beside_the_bundle_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    there = copied(bundle, tmp_path / "board")
    swap(there)
    with pytest.raises(ScoreEdgeError, match=r"the checksum of .* is wrong"):
        check(there)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "has 53 bytes, bundle.json says 54"),
        (swap, "the checksum of .* is wrong"),
        (lambda bundle: last_part(bundle).unlink(), "there is no file|is missing"),
    ],
)
def test_harm_is_noticed(bundle: Bundle, harm: Callable[[Bundle], None], message: str) -> None:
    harm(bundle)
    with pytest.raises(ScoreEdgeError, match=message) as caught:
        check(bundle)
    assert caught.value.message.startswith("language.path: ") and caught.value.hint


def test_harm_is_noticed_without_hashing_where_it_can(bundle: Bundle) -> None:
    truncate(bundle)
    with pytest.raises(ScoreEdgeError, match="has 53 bytes"):
        Bundle.open(bundle.folder, checksums=False)


def test_doctor_and_inspect_hash_it(bundle: Bundle) -> None:
    from score_edge.doctor.bundle import check_bundle

    swap(bundle)
    first = next(check_bundle(str(bundle.folder)))
    assert first.status == "fail" and "checksum" in first.finding


def test_a_later_part_is_not_the_model(tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match="is part 2 of 3 of a split model") as caught:
        model_parts(tmp_path / SPLIT[1])
    assert caught.value.hint == f"name its first part, {SPLIT[0]}"


@pytest.mark.parametrize("names", [["model.gguf", "../x.gguf"], ["model.gguf", "/etc/passwd"], ["other.gguf"]])
def test_parts_lie_beside_the_model(names: list[str], tmp_path: Path) -> None:
    reference = Bundle.open("reference").manifest
    outside = dataclasses.replace(
        reference.language,
        gguf=None,
        path=str(tmp_path / "model.gguf"),
        parts=tuple(FileRef(name) for name in names),
    )
    with pytest.raises(ScoreEdgeError, match=r"language\.parts"):
        dataclasses.replace(reference, language=outside).check()


def test_the_positions_are_those_of_the_model() -> None:
    manifest = Bundle.open("reference").manifest
    assert manifest.language.positions == "mrope"
    check_rope(manifest, keeps_positions=True)
    with pytest.raises(ScoreEdgeError, match=r"language\.positions is mrope, but the language model has plain RoPE"):
        check_rope(manifest, keeps_positions=False)


def snapshot(folder: Path) -> Path:
    """The reference bundle as a Hugging Face cache keeps it."""
    blobs, revision = folder / "models--a--b" / "blobs", folder / "models--a--b" / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    revision.mkdir(parents=True)
    for i, path in enumerate(sorted(path for path in REFERENCE.iterdir() if path.is_file())):
        shutil.copy(path, blobs / f"{i:064}")
        (revision / path.name).symlink_to(f"../../blobs/{i:064}")
    return revision


def test_a_bundle_in_a_hugging_face_cache_opens(tmp_path: Path) -> None:
    revision = snapshot(tmp_path)
    assert Bundle.open(revision).manifest == Bundle.open("reference").manifest
    (tmp_path / "link").symlink_to(revision)
    Bundle.open(tmp_path / "link")


def test_links_of_a_snapshot_lead_to_its_blobs_and_nowhere_else(tmp_path: Path) -> None:
    revision = snapshot(tmp_path)
    policy = revision / "policy.onnx"
    shutil.copy(policy, tmp_path / "outside")
    policy.unlink()
    policy.symlink_to(tmp_path / "outside")
    with pytest.raises(ScoreEdgeError, match=r"policy\.onnx leads out of the bundle"):
        Bundle.open(revision)
    blobs = revision.parent.parent / "blobs"
    shutil.move(blobs, tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")  # a cache whose blobs are no folder of its own
    with pytest.raises(ScoreEdgeError):
        Bundle.open(revision)


def test_doctor_and_inspect_compare_the_rope(tmp_path: Path) -> None:
    from score_edge.doctor.inspection import check_model

    pytest.importorskip("llama_cpp")
    reference = Bundle.open("reference")
    check_model(reference)
    language = dataclasses.replace(reference.manifest.language, positions="plain", time_scale=None)
    manifest = dataclasses.replace(reference.manifest, language=language)
    other = write_bundle(tmp_path / "bundle", manifest, reference.paths)
    with pytest.raises(ScoreEdgeError, match="the language model has mrope RoPE"):
        check_model(other)


def test_weights_beside_a_linked_graph_are_read(tmp_path: Path) -> None:
    """As a Hugging Face cache keeps a large encoder; onnx itself refuses links."""
    onnx = pytest.importorskip("onnx")
    from score_edge.onnx_files.precision import load

    matrix = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "matrix")
    rows, kind = ["n", 64], onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "matrix"], ["y"])],
        "linked",
        [onnx.helper.make_tensor_value_info("x", kind, rows)],
        [onnx.helper.make_tensor_value_info("y", kind, rows)],
        [matrix],
    )
    files, revision = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    files.mkdir()
    revision.mkdir(parents=True)
    made = onnx.helper.make_model(graph)
    onnx.save(made, files / "g.onnx", save_as_external_data=True, location="g.onnx.data", size_threshold=0)
    for i, name in enumerate(("g.onnx", "g.onnx.data")):
        (files / name).rename(files / f"{i:064}")
        (revision / name).symlink_to(f"../../blobs/{i:064}")
    (found,) = load(revision / "g.onnx").graph.initializer
    assert onnx.numpy_helper.to_array(found).sum() == 64 * 64
