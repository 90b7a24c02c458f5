"""The deployable folder: `bundle.json` and the files it names. Opened only when whole, written all or nothing."""

import contextlib
import dataclasses
import errno
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from score_edge.bundle.atomic import atomic_folder, scratch_folder, write_text
from score_edge.bundle.external import check_external, file_sha256, find_model
from score_edge.bundle.manifest import SCHEMA, FileRef, Manifest, Vision
from score_edge.bundle.record import read_record
from score_edge.errors import ScoreEdgeError, did_you_mean

REFERENCE = Path(__file__).parents[1] / "reference" / "bundle"
MANIFEST = "bundle.json"
MANIFEST_LIMIT = 1 << 20
CHUNK = 1 << 20

GraphName = Literal["encoder", "incremental", "policy", "query"]
Shapes = Mapping[str, Sequence[int | str | None]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose content was validated.

    Example:
        >>> bundle = Bundle.open("reference")  # doctest: +SKIP
        >>> bundle.manifest.vision.grid  # doctest: +SKIP
        (6, 6)
    """

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path, *, checksums: bool = True) -> "Bundle":
        """Read a bundle and validate all of it, except the shapes inside its graphs: see `check_shapes`.

        Args:
            path: the folder, or ``"reference"`` for the shipped bundle (``./reference`` is a folder of that name).
            checksums: hash every file; without it only sizes are compared.

        Raises:
            ScoreEdgeError: with the first thing that is wrong and what to do about it.
        """
        shipped = str(path) == "reference"
        folder = REFERENCE if shipped else Path(path)
        try:
            if shipped and not folder.is_dir():
                raise ScoreEdgeError(
                    f"the reference bundle is not in this installation: no {folder}",
                    "make it with `score-edge train reference`, or install score-edge again",
                )
            manifest = _read_manifest(folder)
            for where, ref in manifest.files.items():
                _check_file(folder, where, ref, checksums)
            manifest = dataclasses.replace(manifest, language=find_model(manifest.language, folder))
            check_external(manifest.language, folder / MANIFEST)
        except OSError as error:
            raise ScoreEdgeError(f"cannot read the bundle {folder}: {error}", "check its permissions") from error
        return Bundle(folder, manifest)

    @property
    def encoder_path(self) -> Path:
        """The ONNX vision encoder."""
        return self.folder / self.manifest.vision.graph.file

    @property
    def incremental_path(self) -> Path | None:
        """The ONNX graph that encodes single cells; None where the encoder has none."""
        incremental = self.manifest.vision.incremental
        return self.folder / incremental.graph.file if incremental else None

    @property
    def newline_path(self) -> Path | None:
        """The rows that close a clip; None for models without them."""
        newline = self.manifest.vision.newline
        return self.folder / newline.file if newline else None

    @property
    def policy_path(self) -> Path | None:
        """The ONNX policy; None for a bundle whose selectors need none."""
        policy = self.manifest.selector.policy
        return self.folder / policy.file if policy else None

    @property
    def query_path(self) -> Path | None:
        """The ONNX policy that knows the question, for ``score-query``; None for a bundle without."""
        query = self.manifest.selector.query
        return self.folder / query.file if query else None

    @property
    def graphs(self) -> dict[GraphName, Path]:
        """Every ONNX graph by name."""
        found: dict[GraphName, Path | None] = {
            "encoder": self.encoder_path,
            "incremental": self.incremental_path,
            "policy": self.policy_path,
            "query": self.query_path,
        }
        return {name: path for name, path in found.items() if path is not None}

    @property
    def gguf_path(self) -> Path:
        """The language model, in the bundle or elsewhere."""
        language = self.manifest.language
        # Manifest.check saw to it that one of the two is there.
        return self.folder / language.gguf.file if language.gguf else Path(str(language.path))

    @property
    def adapter_path(self) -> Path | None:
        """The LoRA of the language model; None where its weights are used as they are."""
        adapter = self.manifest.language.adapter
        return self.folder / adapter.file if adapter else None

    @property
    def paths(self) -> dict[str, Path]:
        """Every file by its name in the bundle: what `write_bundle` needs to write it again with changes."""
        return {ref.file: self.folder / ref.file for ref in self.manifest.files.values()}


def write_bundle(
    folder: str | Path, manifest: Manifest, files: Mapping[str, Path | bytes], *, overwrite: bool = False
) -> Bundle:
    """Write a bundle: the target is afterwards the whole new bundle or, after any failure, what it was before.

    Args:
        folder: where to; created with its parents.
        manifest: its file references need names only; sizes and checksums are filled in.
        files: content by name in the bundle, as a path to copy or as bytes; what the manifest does not name
            (external ONNX weights) is listed under ``extra``.
        overwrite: replace a bundle that is there. Any other non-empty folder is refused.

    Raises:
        ScoreEdgeError: values that do not fit together, a missing source, an existing target, a full disk.

    Example:
        >>> manifest = Manifest(vision=Vision(graph=FileRef("encoder.onnx"), ...), ...)  # doctest: +SKIP
        >>> write_bundle("bundle", manifest, {"encoder.onnx": Path("/tmp/encoder.onnx")})  # doctest: +SKIP
    """
    target = Path(folder).resolve()
    for where, ref in manifest.files.items():
        if ref.file not in files:
            raise ScoreEdgeError(
                f"{where} names {ref.file}, which is not among the files to write", did_you_mean(ref.file, files)
            )
    manifest = manifest.sealed({file: FileRef(file) for file in files})
    manifest.check()
    for file, source in files.items():
        if isinstance(source, Path) and not source.is_file():
            raise ScoreEdgeError(f"cannot write {file} into the bundle: there is no file {source}")
    try:
        with atomic_folder(target, overwrite=overwrite) as new:
            check_target(target, overwrite)  # which may be back from a swap that was not finished
            sealed = manifest.sealed({file: _write(new, file, source) for file, source in files.items()})
            _write(new, MANIFEST, _document(sealed).encode())
            Bundle.open(new, checksums=False)
    except OSError as error:
        raise _cannot_write(f"the bundle {target}", error) from error
    return Bundle(target, sealed)


def write_manifest(bundle: Bundle, manifest: Manifest) -> Bundle:
    """Replace a bundle's bundle.json where no file it names changes, in one step and without copying any.

    Args:
        bundle: opened.
        manifest: names the same files.

    Raises:
        ScoreEdgeError: values that do not fit together, a place that cannot be written.
    """
    assert manifest.files == bundle.manifest.files, "files change too: write_bundle"
    manifest.check()
    write_text(bundle.folder / MANIFEST, _document(manifest))
    return Bundle(bundle.folder, manifest)


def _document(manifest: Manifest) -> str:
    """Readable but for the bytes of a file name that is no UTF-8: Python's stand-ins for them become JSON's escapes."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace").decode()


@contextlib.contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """A folder beside a bundle to be, see `scratch_folder`: what does not fit there fits no bundle.

    Raises:
        ScoreEdgeError: it cannot be made, or the disk is full.
    """
    target = folder.resolve()
    try:
        with scratch_folder(target) as scratch:
            yield scratch
    except OSError as error:
        raise _cannot_write(f"into {target.parent}", error) from error


def _cannot_write(what: str, error: OSError) -> ScoreEdgeError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free some disk space" if full else "check the path and its permissions"
    return ScoreEdgeError(f"cannot write {what}: {error}", hint)


def check_shapes(manifest: Manifest, graph: GraphName, inputs: Shapes, outputs: Shapes) -> None:
    """Compare the shapes of a loaded graph with what the manifest promises; whoever loads a graph calls this.

    Args:
        manifest: of the bundle the graph comes from.
        graph: which of its graphs.
        inputs: name to shape as ONNX Runtime reports it; a dimension that is not an int is dynamic.
        outputs: as inputs.

    Raises:
        ScoreEdgeError: a missing or an unknown name, another rank or size.
    """
    vision = manifest.vision
    expected: tuple[Shapes, Shapes]
    if graph == "encoder":
        tokens = (vision.token_grid.tokens, vision.dim)
        expected = {vision.input_name: vision.input_shape}, {"tokens": tokens}
    elif graph == "incremental":
        expected = _incremental_shapes(vision)
    else:
        rows = ("M", vision.dim)
        asked: Shapes = {"background": rows, "question": (1, vision.dim)} if graph == "query" else {}
        expected = {"tokens": rows, "previous": rows, **asked}, {"keep": ("M",)}
    for kind, wanted, found in zip(("input", "output"), expected, (inputs, outputs), strict=True):
        if wanted.keys() != found.keys():
            names = f"{', '.join(found) or 'none'}, expected {', '.join(wanted)}"
            raise ScoreEdgeError(f"{graph} graph has the {kind}s {names}", "export the bundle again")
        for name, shape in wanted.items():
            if not _fits(shape, found[name]):
                raise ScoreEdgeError(
                    f"{graph} graph: {kind} {name} has the shape {_show(found[name])}, expected {_show(shape)}",
                    "the graph and bundle.json do not belong together: export the bundle again",
                )


def _incremental_shapes(vision: Vision) -> tuple[Shapes, Shapes]:
    cache = vision.incremental
    if cache is None:
        raise ScoreEdgeError("bundle.json names no incremental graph", "export the bundle again")
    size = (cache.rows, cache.width)
    inputs = {
        "patches": ("c", vision.merge**2, vision.patch_values),
        "cells": ("c",),
        **dict.fromkeys(cache.caches, size),
    }
    return inputs, {"tokens": ("c", vision.dim), **{f"new_{name}": size for name in cache.caches}}


def _fits(wanted: Sequence[int | str | None], found: Sequence[int | str | None]) -> bool:
    # A size may be left dynamic in the graph; a dimension that must be dynamic, a name here, may not be fixed.
    return len(wanted) == len(found) and all(
        not isinstance(size, int) or size == want for want, size in zip(wanted, found, strict=True)
    )


def _show(shape: Sequence[int | str | None]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in shape)})"


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a folder that `write_bundle` would refuse; what takes minutes to make asks first."""
    try:
        if not target.exists():
            return
        if not overwrite:
            raise ScoreEdgeError(f"{target} already exists", "choose another folder, or replace it with --overwrite")
        if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST).is_file()):
            raise ScoreEdgeError(f"{target} is not a bundle and will not be overwritten", "choose another folder")
    except OSError as error:
        raise _cannot_write(str(target), error) from error


def _write(folder: Path, file: str, source: Path | bytes) -> FileRef:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as reader, path.open("xb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
    return FileRef(file, file_sha256(path), path.stat().st_size)


def _read_manifest(folder: Path) -> Manifest:
    path = _inside(folder, MANIFEST)
    if path is None and (folder / MANIFEST).is_symlink():
        raise ScoreEdgeError(f"{folder}: its bundle.json is a link that leads out of it", f"cp -rL {folder} COPY")
    if path is None or not path.is_file():
        found = "it has no bundle.json" if folder.is_dir() else "there is no such folder"
        raise ScoreEdgeError(
            f"{folder} is not a bundle: {found}", "`score-edge export` writes one; `reference` is shipped"
        )
    if path.stat().st_size > MANIFEST_LIMIT:
        raise ScoreEdgeError(f"{path} is larger than {MANIFEST_LIMIT} bytes", "this is not a manifest of score-edge")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ScoreEdgeError(f"{path} is not valid JSON: {error}", "export the bundle again") from error
    schema = document.get("schema", SCHEMA) if isinstance(document, dict) else SCHEMA
    if type(schema) is int and schema != SCHEMA:
        hint = "install a newer score-edge" if schema > SCHEMA else "export the bundle again"
        raise ScoreEdgeError(f"bundle.json: schema is {schema}, this score-edge reads {SCHEMA}", hint)
    if isinstance(document, dict) and isinstance(document.get("vision"), dict):
        document["vision"].pop("gate", None)  # of older bundles: a threshold of another measure
    manifest = read_record(Manifest, document, MANIFEST)
    manifest.check()
    return manifest


def _check_file(folder: Path, where: str, ref: FileRef, checksums: bool) -> None:
    path = _inside(folder, ref.file)
    again = "copy the bundle again, or export it again"
    if path is None:
        raise ScoreEdgeError(f"{where}: {ref.file} leads out of the bundle", "replace the link by the file itself")
    if not path.is_file():
        raise ScoreEdgeError(f"{where}: {ref.file} is missing from {folder}", again)
    if path.stat().st_size != ref.bytes:
        raise ScoreEdgeError(
            f"{where}: {ref.file} has {path.stat().st_size} bytes, bundle.json says {ref.bytes}", again
        )
    if checksums and file_sha256(path) != ref.sha256:
        raise ScoreEdgeError(f"{where}: the checksum of {ref.file} is wrong, its content has changed", again)


def _inside(folder: Path, file: str) -> Path | None:
    """The real path of a file of the bundle, or None when links lead to where a bundle's files may not lie.

    The folder itself may be a link: the user pointed there. A file in it, whose name comes from bundle.json, may be a
    link to a place in the same folder, or, where the folder is a snapshot in a Hugging Face cache
    (``NAME/snapshots/REVISION``), to that repository's ``NAME/blobs``, where the cache keeps every file. Nothing else.
    """
    try:
        real, path = folder.resolve(), (folder / file).resolve()
    except RuntimeError:  # links in a circle, before Python 3.13
        return None
    allowed = [real, *(parent.parent / "blobs" for parent in (real, *real.parents) if parent.name == "snapshots")]
    return path if any(path.is_relative_to(place) for place in allowed) else None
