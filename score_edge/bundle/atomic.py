"""Files and folders that appear whole or not at all, whatever happens while they are written."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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


def check_writable(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file that could not be written later; whatever takes long asks first. Nothing is made or changed.

    Args:
        path: a file to be written with its folders; one that is there is replaced.
        inputs: files and folders that are read: none of them, and no file inside one, may be replaced.

    Raises:
        ScoreEdgeError: a folder, a place without permission or room for a name, one of the inputs.
    """
    try:
        if path.is_dir():
            raise ScoreEdgeError(f"{path} is a folder", "name a file in it")
        if _is_special(path):
            return
        target = path.resolve()
        for source in inputs:
            if target.exists() and source.exists() and _holds(source, target):
                raise ScoreEdgeError(f"{path} is read by this command, and would be overwritten", "name another file")
        there = next(folder for folder in target.parents if folder.exists())
        if not there.is_dir():
            raise ScoreEdgeError(f"{path} cannot be written: {there} is no folder", "choose another place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ScoreEdgeError(f"{path} cannot be written: no permission for {there}", "choose another place")
        if len(os.fsencode(target.name)) > os.pathconf(there, "PC_NAME_MAX"):
            raise ScoreEdgeError(f"{path} cannot be written: its name is too long", "choose a shorter one")
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a name with NUL
        raise ScoreEdgeError(f"{path} cannot be written: {error}", "choose another place") from error


def _is_special(path: Path) -> bool:
    """A pipe or a device, which takes what it gets. Asked of the path as it is: /dev/stdout resolves to no path."""
    return path.exists() and not path.is_file()


def _holds(source: Path, target: Path) -> bool:
    return source.samefile(target) or (source.is_dir() and target.is_relative_to(source.resolve()))


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; of these, what is still empty at the end is removed again."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in new:
            with contextlib.suppress(OSError):  # something is in it, or it could not be made
                each.rmdir()


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Fill the file this yields; on leaving without an exception it becomes the target, else nothing changes.

    The file lies beside the target and has its suffix. A link stays a link to what is replaced, and permissions are
    those of a file written the plain way. What is no regular file, such as a pipe, is written to directly.

    Args:
        target: its folders are made where they are missing.

    Raises:
        OSError: a full disk, missing permissions.

    Example:
        >>> with atomic_file(Path("report.json")) as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text("{}")
    """
    if _is_special(target):
        yield target
        return
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = target.stem if len(os.fsencode(target.stem)) <= 100 else "file"  # a name cut off may be no UTF-8
    unfinished = target.with_name(f".{stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode))
    try:
        if mode is not None:  # what the umask took of it
            unfinished.chmod(mode)
        yield unfinished
        _sync(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file with its folders, whole or not at all.

    Raises:
        ScoreEdgeError: the place cannot be written.
    """
    try:
        with atomic_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ScoreEdgeError(f"cannot write {path}: {error.strerror}", "choose another place") from error


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
    with scratch_folder(target) as space:
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
            _put_back(space, target)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A folder beside a target, where /tmp may be too small, for what is made on the way; gone afterwards.

    What a killed process left of one for the same target is removed first.

    Raises:
        OSError: a full disk, missing permissions.
    """
    with _made(target.parent), _scratch(target) as space:
        yield space


@contextlib.contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """The same, in a folder that is there."""
    remove_leftovers(target)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
    lock = _lock(made)  # under a name that nobody clears away, who could take it for what a killed process left
    space = made.with_suffix(".partial")
    try:
        made.replace(space)
        yield space
    finally:
        shutil.rmtree(space, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder whose files are written bit by bit, as those of a training run, against a second command.

    It is made where it is missing, and removed if nothing was written.

    Raises:
        ScoreEdgeError: another process writes into it.
        OSError: it cannot be made.
    """
    with _made(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    message = f"another command writes into {folder}"
                    raise ScoreEdgeError(message, "wait for its end, or choose another folder") from error
            yield
        finally:
            os.close(descriptor)


def remove_leftovers(target: Path) -> None:
    """Clear away what killed writers of this target left, and undo a swap that one of them did not finish."""
    # mkdtemp draws no dots, so that the leftovers of `bundle` are never confused with those of `bundle.old`.
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[^.]+\.partial")
    for space in target.parent.iterdir() if target.parent.is_dir() else ():
        if leftover.fullmatch(space.name):
            lock = _lock(space)
            if lock is not None:
                _put_back(space, target)
                shutil.rmtree(space, ignore_errors=True)
                os.close(lock)


def _put_back(space: Path, target: Path) -> None:
    """Undo a swap that was not finished."""
    old = space / "old"
    if old.exists() and not target.exists():
        old.rename(target)


def _lock(folder: Path) -> int | None:
    """Mark a folder as in use until the process ends; None when another process uses it or nobody can tell."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # its writer has just removed it, or it is another user's
        return None
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
