"""Pictures and videos of a request: their size is known before they are decoded, and no path leads out of a folder."""

import base64
import binascii
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from score_edge.core import Frame
from score_edge.errors import ScoreEdgeError
from score_edge.native_path import printable
from score_edge.runtime.sources.image_header import read_header
from score_edge.runtime.sources.open_source import sample_clip
from score_edge.runtime.sources.opencv import quiet_cv2, rgb
from score_edge.serve.refusal import Refused

_KINDS = ("jpeg", "png", "webp")
_SECONDS = 1.0  # nothing tells how far apart the pictures of a request are


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames of a request.

    Attributes:
        key: the same for the same frames.
        read: gives them, decoded one by one.
    """

    key: str
    read: Callable[[], Iterator[Frame]]


def picture(url: str, pixels_m: float, param: str) -> bytes:
    """The encoded picture of a data URI.

    Raises:
        Refused: it is none, of another kind, or has more than so many million pixels.
    """
    data = _data(url, param)
    if data is None:
        raise Refused(400, "pictures are taken as data URIs only: data:image/jpeg;base64,...", "invalid_image", param)
    header = read_header(data)
    if header is None or header.kind not in _KINDS or header.frames != 1:
        raise Refused(400, f"this is no {', '.join(_KINDS)} picture", "invalid_image", param)
    if not 0 < header.width * header.height <= pixels_m * 1e6:
        message = f"{header.width} x {header.height} pixels are not within the {pixels_m:g} million of a picture here"
        raise Refused(400, message, "image_too_large", param)
    return data


def pictures_clip(pictures: list[bytes]) -> Clip:
    """Pictures, in order, as the frames of one clip."""
    digest = hashlib.sha256()
    for data in pictures:
        digest.update(hashlib.sha256(data).digest())

    def read() -> Iterator[Frame]:
        cv2 = quiet_cv2()
        for index, data in enumerate(pictures):
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # upright, by its EXIF
            except cv2.error:
                image = None
            if image is None:
                raise ScoreEdgeError(f"picture {index + 1} of {len(pictures)} is damaged", "send it again")
            yield Frame(rgb(image), index * _SECONDS, index)

    return Clip(digest.hexdigest(), read)


def video_clip(url: str, root: str | None, fps: float, frames: int, param: str) -> Clip:
    """A video of a data URI, or of a path below `root`; of a long one `frames` frames, spread over all of it.

    Raises:
        Refused: the path does not lie there.
    """
    data = _data(url, param)
    if data is not None:
        return Clip(hashlib.sha256(data).hexdigest(), lambda: _of_bytes(data, fps, frames))
    path = Path(unquote(url.removeprefix("file://")))
    refusal = Refused(400, "no video of this server: give a data URI or a file below --media-root", "no_media", param)
    if root is None or "\0" in str(path):
        raise refusal
    try:
        place = (Path(root) / path).resolve()
        if not (place.is_relative_to(Path(root).resolve()) and place.is_file()):
            raise refusal
        found = place.stat()
    except (OSError, RuntimeError) as error:
        raise refusal from error
    return Clip(f"{place} {found.st_mtime_ns} {found.st_size}", lambda: _read(place, fps, frames))


def _of_bytes(data: bytes, fps: float, frames: int) -> Iterator[Frame]:
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        file.write(data)
        file.flush()
        yield from _read(Path(file.name), fps, frames)


def _read(place: Path, fps: float, frames: int) -> Iterator[Frame]:
    """The frames of a file; where it lies is no client's concern."""
    try:
        yield from sample_clip(place, fps, frames)
    except ScoreEdgeError as error:
        raise ScoreEdgeError(error.message.replace(printable(place), "the video"), error.hint) from error


def _data(url: str, param: str) -> bytes | None:
    """The content of a data URI; None where it is another address."""
    if url[:5].lower() != "data:":
        return None
    head, comma, text = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise Refused(400, "this data URI is not base64", "invalid_image", param)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, "this data URI is not valid base64", "invalid_image", param) from error
