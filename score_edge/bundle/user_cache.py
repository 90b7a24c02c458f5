"""Where what this user's programs made for themselves is kept, outside of every bundle."""

import os
import tempfile
from pathlib import Path

OURS = "score-edge"


def user_cache(kind: str) -> Path:
    """``$XDG_CACHE_HOME/score-edge/KIND`` or ``~/.cache/score-edge/KIND``; it need not exist.

    Where there is no home, or none that can be written, a folder of this user's in the one for temporary files. But
    what was written there while the home could be is still found: a service may have it read-only.

    Example:
        >>> user_cache("engines").name
        'engines'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
        there = next(folder for folder in (home, *home.parents) if folder.exists())
        ours = home / OURS / kind
        if ours.is_dir() or os.access(there, os.W_OK | os.X_OK):
            return ours
    except (RuntimeError, PermissionError):  # no HOME and a user id without an entry, or the HOME of another user
        pass
    return Path(tempfile.gettempdir()) / f"cache-{os.getuid()}" / OURS / kind


def make_private(folder: Path) -> None:
    """Make a folder below `user_cache` that nobody else may write, whatever the umask is or was.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, *folder.parents):
        if not private(place) and place.stat().st_uid == os.getuid():
            place.chmod(place.stat().st_mode & ~0o022)
        if place.name == OURS:
            break


def private(folder: Path) -> bool:
    """Whether nobody but this user and root can have put something into a folder."""
    try:
        about = folder.stat()
    except OSError:
        return False
    return about.st_uid in (0, os.getuid()) and not about.st_mode & 0o022
