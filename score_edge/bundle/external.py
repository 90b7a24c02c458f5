"""The language model outside of a bundle: whole, and the one the bundle was made for."""

import contextlib
import dataclasses
import hashlib
import re
from pathlib import Path

from score_edge.bundle.manifest import FileRef, Language, Manifest
from score_edge.errors import ScoreEdgeError

_CHUNK = 1 << 20
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")
_AGAIN = "download or copy it again, or export the bundle again for this file"


def model_parts(path: Path) -> list[Path]:
    """The files of a GGUF: itself, or all parts of a split one, whose first part llama.cpp is given.

    Raises:
        ScoreEdgeError: the path names a later part; a part is missing.
    """
    split = _SPLIT.fullmatch(path.name)
    if split is None:
        return [path]
    count = int(split["parts"])
    parts = [path.with_name(f"{split['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    if int(split["part"]) != 1:
        raise ScoreEdgeError(
            f"{path} is part {int(split['part'])} of {count} of a split model", f"name its first part, {parts[0].name}"
        )
    for part in parts:
        if not part.is_file():
            raise ScoreEdgeError(f"{part} is missing: {path.name} is one of {count} parts", "download the others too")
    return parts


def find_model(language: Language, folder: Path) -> Language:
    """The same with the place of the file outside: as noted or, where nothing is there because the bundle was copied to
    another machine, the file of that name beside the bundle. Either must have the noted size and hash.

    Args:
        language: of the manifest.
        folder: of the bundle.
    """
    if language.path is None:
        return language
    # What this user may not look into, as the home of whoever exported, is as good as not there.
    with contextlib.suppress(PermissionError):
        if Path(language.path).is_file():
            return language
    beside = folder.resolve().parent / Path(language.path).name
    return dataclasses.replace(language, path=str(beside)) if beside.is_file() else language


def sealed_language(language: Language) -> Language:
    """The same with size and hash of the file outside; a gigabyte takes a second or two.

    Raises:
        ScoreEdgeError: the file, or a part of it, is not there.
    """
    if language.path is None:
        return language
    parts = tuple(FileRef(part.name, file_sha256(part), part.stat().st_size) for part in _there(language.path))
    return dataclasses.replace(language, parts=parts)


def check_external(language: Language, manifest: Path, *, checksums: bool = False) -> None:
    """Hold the file outside against what the bundle says of it.

    Args:
        language: of the manifest; one inside the bundle is checked with the bundle's other files.
        manifest: path of bundle.json, for messages.
        checksums: hash it too, which takes as long as reading it.

    Raises:
        ScoreEdgeError: it, or a part of it, is missing, or is not the one that was exported.
    """
    if language.path is None:
        return
    try:
        parts = _there(language.path)
    except ScoreEdgeError as error:
        hint = error.hint or f"copy it beside the bundle {manifest.parent}, or correct language.path in {manifest}"
        raise ScoreEdgeError(f"language.path: {error.message}", hint) from error
    for part, ref in zip(parts, language.parts, strict=False):
        if part.stat().st_size != ref.bytes:
            raise ScoreEdgeError(
                f"language.path: {part} has {part.stat().st_size} bytes, bundle.json says {ref.bytes}", _AGAIN
            )
        if checksums and file_sha256(part) != ref.sha256:
            raise ScoreEdgeError(f"language.path: the checksum of {part} is wrong, it is another file", _AGAIN)
    if language.parts and len(parts) != len(language.parts):
        raise ScoreEdgeError(
            f"language.path: {parts[0].name} has {len(parts)} parts, bundle.json says {len(language.parts)}", _AGAIN
        )


def check_rope(manifest: Manifest, keeps_positions: bool) -> None:
    """Compare the positions a bundle counts on with the RoPE of the model that was opened; the opener calls this.

    Args:
        manifest: of the bundle.
        keeps_positions: whether the model has M-RoPE, see `Capabilities.keeps_positions`.

    Raises:
        ScoreEdgeError: kept tokens would be placed as another model numbers them.
    """
    found = "mrope" if keeps_positions else "plain"
    if manifest.language.positions != found:
        raise ScoreEdgeError(
            f"language.positions is {manifest.language.positions}, but the language model has {found} RoPE: "
            "it is not the one this bundle was made for",
            "give the GGUF of the checkpoint that was exported, or export the bundle again",
        )


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _there(path: str) -> list[Path]:
    if not Path(path).is_file():
        raise ScoreEdgeError(f"there is no file {path!r}")
    return model_parts(Path(path))
