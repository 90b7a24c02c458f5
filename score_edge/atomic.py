"""Folders that appear whole or not at all, whatever happens while they are written."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from score_edge.errors import ScoreEdgeError


def make_folder(folder: Path) -> None:
    """Make a folder for results, with its parents; one that is there is kept.

    Raises:
        ScoreEdgeError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScoreEdgeError(f"{folder} cannot be made: {error.strerror}", "choose another folder") from error


@contextlib.contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Fill the folder this yields; on leaving without an exception it becomes the target.

    The work happens in `.NAME.xxxx.partial` beside the target, with `new` and, during the swap, `old` inside. It is
    removed on any exception. A killed process leaves it behind: the next call removes it, and puts `old` back
    should the target be missing.

    Args:
        target: the folder to make, with its parents.
        overwrite: take the place of a target that is there.

    Raises:
        OSError: a full disk, missing permissions, a target that is there; it is then what it was before.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    space = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    lock = _lock(space)
    try:
        new = space / "new"
        new.mkdir()
        yield new
        _sync_tree(new)
        if overwrite and target.exists():
            target.rename(space / "old")
        new.rename(target)
        _sync(target.parent)
    finally:
        _discard(space, target)
        if lock is not None:
            os.close(lock)


def remove_leftovers(target: Path) -> None:
    """Clear away what killed writers of this target left, and undo a swap that one of them did not finish."""
    # mkdtemp draws no dots, so that the leftovers of `bundle` are never confused with those of `bundle.old`.
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.partial")
    for space in target.parent.iterdir() if target.parent.is_dir() else ():
        if leftover.fullmatch(space.name):
            lock = _lock(space)
            if lock is not None:
                _discard(space, target)
                os.close(lock)


def _discard(space: Path, target: Path) -> None:
    old = space / "old"
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(space, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    """Mark a folder as in use until the process ends; None when another process uses it or nobody can tell."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or a file system without locks: leave the folder alone
        os.close(descriptor)
        return None
    return descriptor


def _sync_tree(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
