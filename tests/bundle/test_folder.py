"""A bundle opens only when it is whole, and a refused or failed write changes nothing."""

import dataclasses
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import score_edge.bundle.folder
from score_edge.bundle.folder import Bundle, check_shapes, check_target, write_bundle, write_manifest
from score_edge.bundle.manifest import FileRef, Language, Manifest, Prompt, Selection, Vision
from score_edge.bundle.provenance import Provenance
from score_edge.errors import ScoreEdgeError

FILES: dict[str, Path | bytes] = {"encoder.onnx": b"encoder", "policy.onnx": b"policy", "llm/small.gguf": b"weights"}
MANIFEST = Manifest(
    name="tiny",
    family="qwen2_vl",
    vision=Vision(
        graph=FileRef("encoder.onnx"),
        height=96,
        width=128,
        patch=8,
        merge=2,
        frames_per_step=2,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        resample="bicubic",
        fps=4.0,
        dim=64,
        grid=(6, 8),
    ),
    selector=Selection("score", FileRef("policy.onnx"), retention=0.25),
    language=Language("mrope", context=4096, dim=64, gguf=FileRef("llm/small.gguf")),
    prompt=Prompt("<|vision_start|>", "<|vision_end|>{question}\nÜber {braces}: "),
    provenance=Provenance("here", "2026-01-02T03:04:05+00:00", "abc", {"score-edge": "0.1.0"}),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", MANIFEST, FILES).folder


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "bundle.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def put(where: str, value: object) -> Callable[[Path], None]:
    *parents, last = where.split(".")

    def change(document: dict[str, Any]) -> None:
        for key in parents:
            document = document[key]
        document[last] = value

    return lambda folder: edit(folder, change)


def drop(where: str) -> Callable[[Path], None]:
    parent, _, last = where.rpartition(".")
    return lambda folder: edit(folder, lambda document: (document[parent] if parent else document).pop(last))


def text(content: str | bytes) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / "bundle.json").write_bytes(data)


def link(file: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(target)

    return change


def outside(folder: Path) -> None:
    shutil.move(folder / "encoder.onnx", folder.parent / "encoder.onnx")
    (folder / "encoder.onnx").symlink_to("../encoder.onnx")


def linked_folder(folder: Path) -> None:
    shutil.move(folder / "llm", folder.parent / "llm")
    (folder / "llm").symlink_to(folder.parent / "llm")


def folder_instead(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    (folder / "bundle.json").mkdir()


def pipe_instead(folder: Path) -> None:
    (folder / "policy.onnx").unlink()
    os.mkfifo(folder / "policy.onnx")


CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "bundle.json").unlink(), "is not a bundle: it has no bundle.json"),
    "no folder": (shutil.rmtree, "is not a bundle: there is no such folder"),
    "manifest is a folder": (folder_instead, "it has no bundle.json"),
    "manifest elsewhere": (link("bundle.json", "/etc/passwd"), "its bundle.json is a link that leads out of it"),
    "empty": (text(""), "is not valid JSON: Expecting value"),
    "truncated": (text('{"schema": 1, "na'), "is not valid JSON"),
    "not UTF-8": (text(b'{"name": "\xff"}'), "is not valid JSON"),
    "nested": (text("[" * 100_000), "is not valid JSON"),
    "huge": (text(" " * (1 << 20) + "{}"), "is larger than 1048576 bytes"),
    "a list": (text("[]"), "bundle.json must be an object, not []"),
    "newer schema": (put("schema", 2), "schema is 2, this score-edge reads 1\n  hint: install a newer score-edge"),
    "older schema": (put("schema", 0), "schema is 0, this score-edge reads 1\n  hint: export the bundle again"),
    "schema type": (put("schema", "1"), 'bundle.json: schema must be a whole number, not "1"'),
    "unknown": (put("vision.heigth", 1), "vision.heigth is not a known key\n  hint: did you mean height?"),
    "unknown, unlike": (put("prompt.zz", 1), "prompt.zz is not a known key\n  hint: known: before, after"),
    "unprintable": (put("a\nb", 1), r"bundle.json: 'a\nb' is not a known key"),
    "missing": (drop("vision.patch"), "bundle.json: vision.patch is missing"),
    "missing part": (drop("language"), "bundle.json: language is missing"),
    "text for int": (put("vision.dim", "64"), 'vision.dim must be a whole number, not "64"'),
    "float for int": (put("vision.dim", 64.0), "vision.dim must be a whole number, not 64.0"),
    "bool for int": (put("vision.dim", True), "vision.dim must be a whole number, not true"),
    "huge int": (put("vision.fps", 10**400), "vision.fps must be a number of at most 64 bits, not 1000"),
    "NaN": (put("vision.fps", float("nan")), "vision.fps must be a finite number, not NaN"),
    "null": (put("name", None), "bundle.json: name must be a text, not null"),
    "list for object": (put("vision", []), "bundle.json: vision must be an object, not []"),
    "short list": (put("vision.grid", [6]), "vision.grid must be a list of 2, not [6]"),
    "list item": (put("vision.mean", [0, 0, "x"]), 'vision.mean[2] must be a finite number, not "x"'),
    "list type": (put("vision.std", 1), "vision.std must be a list, not 1"),
    "version type": (put("provenance.versions", {"onnx": 1}), "provenance.versions.onnx must be a text, not 1"),
    "versions type": (put("provenance.versions", 1), "provenance.versions must be an object, not 1"),
    "literal": (put("language.positions", "rope"), 'language.positions must be "mrope" or "plain", not "rope"'),
    "resample": (
        put("vision.resample", "cubic"),
        'must be "bicubic" or "bilinear" or "lanczos" or "area", not "cubic"',
    ),
    "zero patch": (put("vision.patch", 0), "vision.patch must be above 0, not 0"),
    "not divisible": (
        put("vision.height", 100),
        "vision.height x width = 100 x 128 is no multiple of patch * merge = 16",
    ),
    "grid": (put("vision.grid", [8, 6]), "vision.grid is [8, 6], but height, width, patch, merge give [6, 8]"),
    "no cell": (
        lambda f: edit(f, lambda d: d["vision"].update(layout="pixels", height=4, grid=[0, 8])),
        "vision.height x width = 4 x 128 is less than patch * merge = 16",
    ),
    "fps": (put("vision.fps", 1e308), "vision.fps must be in [0.001, 1000], not 1e+308"),
    "mean": (put("vision.mean", [127.5] * 3), "vision.mean must be in [0, 1], not [127.5, 127.5, 127.5]"),
    "time scale": (put("language.time_scale", 1e300), "language.time_scale is 1e+300, but must be in (0, 1000]"),
    "longest edge": (put("vision.longest_edge", 2**31), "vision.longest_edge must be in [1, 8192], not 2147483648"),
    "threshold": (put("vision.threshold", 1e300), "vision.threshold must be in [0, 255], not 1e+300"),
    "layers": (
        put("vision.incremental", {"graph": {"file": "encoder.onnx"}, "layers": 10**12, "rows": 1, "width": 1}),
        "vision.incremental.layers must be in [1, 1000000], not 1000000000000",
    ),
    "std": (put("vision.std", [1, 0, 1]), "vision.std must be above 0"),
    "retention 0": (put("selector.retention", 0), "selector.retention must be in (0, 1], not 0.0"),
    "retention 1.1": (put("selector.retention", 1.1), "selector.retention must be in (0, 1], not 1.1"),
    "no policy": (put("selector.policy", None), "selector.policy is null, but the selector score runs one"),
    "two models": (put("language.path", "/x.gguf"), "language needs exactly one of gguf"),
    "no model": (put("language.gguf", None), "language needs exactly one of gguf"),
    "context": (put("language.context", -1), "language.context must be above 0, not -1"),
    "dims": (put("language.dim", 65), "vision.dim is 64, but language.dim is 65"),
    "placeholder": (put("prompt.after", "question"), "prompt.after must contain {question} exactly once"),
    "absolute": (put("vision.graph.file", "/etc/passwd"), "vision.graph names '/etc/passwd', which is no path inside"),
    "parent": (put("vision.graph.file", "../encoder.onnx"), "which is no path inside the bundle"),
    "dots": (put("vision.graph.file", "llm/../encoder.onnx"), "which is no path inside the bundle"),
    "backslash": (put("vision.graph.file", "..\\encoder.onnx"), "which is no path inside the bundle"),
    "NUL": (put("vision.graph.file", "a\0b"), "which is no path inside the bundle"),
    "surrogate": (put("vision.graph.file", "\ud800"), "which is no path inside the bundle"),
    "no name": (put("vision.graph.file", ""), "which is no path inside the bundle"),
    "itself": (put("vision.graph.file", "bundle.json"), "which is no path inside the bundle"),
    "long name": (put("vision.graph.file", "x" * 300), "cannot read the bundle"),
    "link out": (outside, "vision.graph: encoder.onnx leads out of the bundle"),
    "folder link out": (linked_folder, "language.gguf: llm/small.gguf leads out of the bundle"),
    "link to itself": (link("encoder.onnx", "encoder.onnx"), "vision.graph: encoder.onnx"),
    "missing file": (lambda f: (f / "policy.onnx").unlink(), "selector.policy: policy.onnx is missing"),
    "a pipe": (pipe_instead, "policy.onnx is missing"),
    "truncated file": (lambda f: (f / "encoder.onnx").write_bytes(b"enc"), "has 3 bytes, bundle.json says 7"),
    "other content": (lambda f: (f / "encoder.onnx").write_bytes(b"ENCODER"), "the checksum of encoder.onnx is wrong"),
}


@pytest.mark.parametrize("case", CORRUPTIONS)
def test_corruption_is_one_line_and_a_hint(case: str, folder: Path) -> None:
    corrupt, expected = CORRUPTIONS[case]
    corrupt(folder)
    with pytest.raises(ScoreEdgeError) as caught:
        Bundle.open(folder)
    assert expected in str(caught.value)
    assert "\n" not in caught.value.message and caught.value.hint


def test_roundtrip(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.manifest.vision.graph.bytes == len(b"encoder")
    bare = {file: FileRef(file) for file in FILES}
    assert bundle.manifest.sealed(bare) == MANIFEST
    assert {file: path.read_bytes() for file, path in bundle.paths.items()} == FILES
    again = write_bundle(folder.parent / "again", bundle.manifest, bundle.paths)
    assert again.manifest == bundle.manifest
    assert bundle.encoder_path == folder / "encoder.onnx"
    assert bundle.policy_path == folder / "policy.onnx"
    assert bundle.gguf_path == folder / "llm" / "small.gguf"


def test_keys_with_a_default_may_be_left_out(folder: Path) -> None:
    drop("extra")(folder)
    drop("selector.retention")(folder)
    assert Bundle.open(folder).manifest.selector.retention == Selection("all").retention


def test_a_link_within_the_bundle_is_fine(folder: Path) -> None:
    (folder / "encoder.onnx").rename(folder / "real.onnx")
    (folder / "encoder.onnx").symlink_to("real.onnx")
    Bundle.open(folder)


def test_checksums_can_be_skipped(folder: Path) -> None:
    (folder / "encoder.onnx").write_bytes(b"ENCODER")
    Bundle.open(folder, checksums=False)


def test_language_model_elsewhere(tmp_path: Path) -> None:
    gguf = tmp_path / "elsewhere.gguf"
    gguf.write_bytes(b"weights")
    language = Language("plain", context=4096, dim=64, path=str(gguf))
    manifest = dataclasses.replace(MANIFEST, language=language)
    graphs = {file: FILES[file] for file in ("encoder.onnx", "policy.onnx")}
    bundle = write_bundle(tmp_path / "bundle", manifest, graphs)
    assert Bundle.open(bundle.folder).gguf_path == gguf
    gguf.unlink()
    with pytest.raises(ScoreEdgeError, match=r"language\.path: there is no file '.*/elsewhere\.gguf'"):
        Bundle.open(bundle.folder)
    put("language.path", "small.gguf")(bundle.folder)
    with pytest.raises(ScoreEdgeError, match=r"must be an absolute path, not 'small\.gguf'"):
        Bundle.open(bundle.folder)


def test_reference_is_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_edge.bundle.folder, "REFERENCE", folder)
    assert Bundle.open("reference").folder == folder
    monkeypatch.setattr(score_edge.bundle.folder, "REFERENCE", folder / "none")
    with pytest.raises(ScoreEdgeError, match="not in this installation"):
        Bundle.open("reference")
    folder.rename(folder.parent / "reference")
    monkeypatch.chdir(folder.parent)
    assert Bundle.open("./reference").manifest.name == "tiny"


PATCHES, TOKENS = ("P", 384), ("N", 64)
SHAPES: dict[str, tuple[Any, Any, Any, str]] = {
    "encoder": ("encoder", {"patches": PATCHES}, {"tokens": TOKENS}, ""),
    "fixed": ("encoder", {"patches": (192, 384)}, {"tokens": (48, 64)}, ""),
    "policy": ("policy", {"tokens": (None, 64), "previous": (None, 64)}, {"keep": ("M",)}, ""),
    "name": ("encoder", {"pixels": PATCHES}, {"tokens": TOKENS}, "has the inputs pixels, expected patches"),
    "output": ("encoder", {"patches": PATCHES}, {}, "has the outputs none, expected tokens"),
    "width": (
        "encoder",
        {"patches": ("P", 192)},
        {"tokens": TOKENS},
        "patches has the shape (P, 192), expected (192, 384)",
    ),
    "count": ("encoder", {"patches": (64, 384)}, {"tokens": TOKENS}, "has the shape (64, 384), expected (192, 384)"),
    "rank": ("encoder", {"patches": PATCHES}, {"tokens": (1, "N", 64)}, "tokens has the shape (1, N, 64)"),
    "rows": ("policy", {"tokens": (48, 64), "previous": (48, 64)}, {"keep": (48,)}, "(48, 64), expected (M, 64)"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case: str) -> None:
    graph, inputs, outputs, expected = SHAPES[case]
    if not expected:
        check_shapes(MANIFEST, graph, inputs, outputs)
        return
    with pytest.raises(ScoreEdgeError) as caught:
        check_shapes(MANIFEST, graph, inputs, outputs)
    assert expected in caught.value.message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def untouched(folder: Path) -> Iterator[Path]:
    """The folder; what is in it, and that nothing lies beside it, is the same after the test."""
    before = snapshot(folder.parent)
    yield folder
    assert snapshot(folder.parent) == before
    assert names(folder.parent) == ["bundle"]


REFUSED: dict[str, tuple[dict[str, Path | bytes], str]] = {
    "not given": ({"encoder.onn": b""}, "vision.graph names encoder.onnx, which is not among the files to write"),
    "no source": ({**FILES, "encoder.onnx": Path("/nowhere/e.onnx")}, "there is no file /nowhere/e.onnx"),
    "a folder": ({**FILES, "encoder.onnx": Path("/etc")}, "there is no file /etc"),
    "leaves": ({**FILES, "../evil": b""}, "extra[0] names '../evil', which is no path inside the bundle"),
    "manifest": ({**FILES, "bundle.json": b"{}"}, "extra[0] names 'bundle.json'"),
    "file as folder": ({**FILES, "encoder.onnx/x": b""}, "cannot write the bundle"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_changes(case: str, untouched: Path) -> None:
    files, expected = REFUSED[case]
    with pytest.raises(ScoreEdgeError) as caught:
        write_bundle(untouched, MANIFEST, files, overwrite=True)
    assert expected in caught.value.message


def test_inconsistent_values_are_not_written(untouched: Path) -> None:
    wrong = dataclasses.replace(MANIFEST, prompt=Prompt("", ""))
    with pytest.raises(ScoreEdgeError, match=r"prompt\.after"):
        write_bundle(untouched.parent / "new", wrong, FILES)
    mistyped = dataclasses.replace(MANIFEST, vision=dataclasses.replace(MANIFEST.vision, dim=64.0))  # type: ignore[arg-type]
    with pytest.raises(ScoreEdgeError, match=r"vision\.dim must be a whole number"):
        write_bundle(untouched.parent / "new", mistyped, FILES)


def test_a_target_that_is_back_from_an_unfinished_swap_is_not_replaced(untouched: Path) -> None:
    space = untouched.with_name(f".{untouched.name}.abc_1234.partial")
    (space / "new").mkdir(parents=True)
    untouched.rename(space / "old")
    with pytest.raises(ScoreEdgeError, match="already exists"):
        write_bundle(untouched, MANIFEST, FILES)


def test_existing_target(untouched: Path) -> None:
    with pytest.raises(ScoreEdgeError, match=r"already exists\n.*--overwrite"):
        write_bundle(untouched, MANIFEST, FILES)
    with pytest.raises(ScoreEdgeError, match="is not a bundle and will not be overwritten"):
        write_bundle(untouched / "llm", MANIFEST, FILES, overwrite=True)
    with pytest.raises(ScoreEdgeError, match="is not a bundle and will not be overwritten"):
        write_bundle(untouched / "encoder.onnx", MANIFEST, FILES, overwrite=True)
    with pytest.raises(ScoreEdgeError, match="cannot write the bundle"):
        write_bundle(untouched / "encoder.onnx" / "x", MANIFEST, FILES)


def test_a_target_whose_name_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ScoreEdgeError, match=r"cannot write .*File name too long"):
        check_target(tmp_path / ("a" * 300), overwrite=False)


def test_overwrite_with_files_of_the_old_bundle(folder: Path) -> None:
    old = Bundle.open(folder)
    manifest = dataclasses.replace(old.manifest, name="new")
    write_bundle(folder, manifest, {**old.paths, "encoder.onnx.data": b"external"}, overwrite=True)
    new = Bundle.open(folder)
    assert new.manifest.name == "new"
    assert [ref.file for ref in new.manifest.extra] == ["encoder.onnx.data"]
    assert names(folder.parent) == ["bundle"]


def test_target_behind_a_link_stays_there(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    write_bundle(link, dataclasses.replace(MANIFEST, name="new"), FILES, overwrite=True)
    assert link.is_symlink() and Bundle.open(folder).manifest.name == "new"


def test_permissions_follow_the_umask(folder: Path) -> None:
    (folder.parent / "plain").mkdir()
    assert folder.stat().st_mode == (folder.parent / "plain").stat().st_mode


def test_full_disk_leaves_the_old_bundle(untouched: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ScoreEdgeError, match=r"File too large.*\n  hint: free some disk space"):
            write_bundle(untouched, MANIFEST, {**FILES, "llm/small.gguf": bytes(200_000)}, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        folder = write_bundle(disk / "bundle", MANIFEST, FILES).folder
        with pytest.raises(ScoreEdgeError, match=r"No space left.*\n  hint: free some disk space"):
            write_bundle(folder, MANIFEST, {**FILES, "llm/small.gguf": bytes(400_000)}, overwrite=True)
        assert names(disk) == ["bundle"]
        Bundle.open(folder)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_parent(untouched: Path) -> None:
    untouched.parent.chmod(0o555)
    try:
        with pytest.raises(ScoreEdgeError, match="check the path and its permissions"):
            write_bundle(untouched, MANIFEST, FILES, overwrite=True)
    finally:
        untouched.parent.chmod(0o755)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    reference = Bundle.open("reference")
    folder = tmp_path / os.fsdecode(b"b\xe9\xc3\xa9")
    try:
        folder.mkdir()
        folder.rmdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    manifest = dataclasses.replace(reference.manifest, name=folder.name)
    made = write_bundle(folder, manifest, reference.paths)
    assert Bundle.open(folder).manifest.name == folder.name
    write_manifest(made, made.manifest)
    assert Bundle.open(folder).manifest.name == folder.name
    assert "é" in (folder / "bundle.json").read_text(encoding="utf-8")
