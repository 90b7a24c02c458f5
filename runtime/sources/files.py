"""What lies at a path: a video, an image, a folder of images; or what is there instead."""

import difflib
from pathlib import Path

from score_edge.errors import ScoreEdgeError
from score_edge.native_path import printable
from score_edge.runtime.sources.address import SCHEMES
from score_edge.runtime.sources.base import Source
from score_edge.runtime.sources.images import IMAGE_SUFFIXES, ImageFolder, open_image
from score_edge.runtime.sources.video_file import open_video


def open_path(path: Path) -> Source:
    """Open what lies at a path: a video, an image, or a folder of images.

    Raises:
        ScoreEdgeError: nothing there can be read; the message says what is there instead.
    """
    shown = printable(path)
    try:
        if path.is_dir():
            files = [p for p in path.iterdir() if not p.name.startswith(".") and p.is_file()]
            images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
            if not images:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise ScoreEdgeError(f"folder {shown} holds no images", f"give a video file, or a folder of {kinds}")
            return ImageFolder(images, [p for p in files if p.suffix.lower() not in IMAGE_SUFFIXES])
        if path.is_file():
            return open_image(path) if path.suffix.lower() in IMAGE_SUFFIXES else open_video(path)
        if path.exists():
            hint = "give a video file or a folder of images; a USB camera is v4l2:///dev/video0"
            raise ScoreEdgeError(f"{shown} is neither a file nor a folder", hint)
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except OSError as error:
        raise ScoreEdgeError(f"{shown} cannot be read: {error.strerror}", "check its permissions") from error
    scheme, colon, _ = shown.partition(":")
    if colon and scheme.lower() in SCHEMES:  # what follows may be a password
        raise ScoreEdgeError(f"{scheme}:*** does not exist", f"an address has two slashes: {scheme}://")
    raise ScoreEdgeError(f"{shown} does not exist", _hint(path, siblings))


def _hint(path: Path, siblings: list[str]) -> str:
    """What may have been meant where nothing is."""
    if close := difflib.get_close_matches(path.name, siblings, n=1):
        return f"did you mean {printable(path.parent / close[0])}?"
    number = str(path).removeprefix("/dev/video")
    return f"a USB camera is v4l2:///dev/video{number}" if number.isdecimal() else "check the path"
