"""A folder is the old one or the new one, whoever is interrupted or killed, and nothing is left beside it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from score_edge.bundle.atomic import (
    atomic_folder,
    check_writable,
    make_folder,
    only_writer,
    remove_leftovers,
    scratch_folder,
    write_text,
)
from score_edge.errors import ScoreEdgeError


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    write(folder, "old", overwrite=False)
    return folder


def write(target: Path, content: str, *, overwrite: bool = True) -> None:
    with atomic_folder(target, overwrite=overwrite) as new:
        (new / "sub").mkdir()
        (new / "sub" / "file").write_text(content)


def tree(parent: Path) -> dict[str, str]:
    return {str(path.relative_to(parent)): path.read_text() for path in parent.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_folder_takes_the_place(target: Path) -> None:
    write(target, "new")
    assert tree(target.parent) == {"folder/sub/file": "new"}
    assert names(target.parent) == ["folder"]


def test_a_folder_that_came_meanwhile_is_not_replaced(target: Path) -> None:
    with pytest.raises(OSError, match="not empty"):
        write(target, "new", overwrite=False)
    assert tree(target.parent) == {"folder/sub/file": "old"}
    assert names(target.parent) == ["folder"]


def test_parents_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c", "new")
    assert tree(tmp_path) == {"a/b/c/sub/file": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_failure_while_writing(error: type[BaseException], target: Path) -> None:
    with pytest.raises(error), atomic_folder(target, overwrite=True) as new:
        (new / "half").write_text("half")
        raise error
    assert tree(target.parent) == {"folder/sub/file": "old"}
    assert names(target.parent) == ["folder"]


@pytest.mark.parametrize("nth", [1, 2])
def test_interrupted_swap(nth: int, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted, renames = interrupt(os.rename, nth)
    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(target, "new")
    assert len(renames) >= nth
    assert tree(target.parent) == {"folder/sub/file": "old"}
    assert names(target.parent) == ["folder"]


def interrupt(function: Callable[..., None], nth: int) -> tuple[Callable[..., None], list[Any]]:
    calls: list[Any] = []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        function(*arguments)

    return interrupted, calls


WRITER = """
import sys, time
from pathlib import Path
from score_edge.bundle.atomic import atomic_folder

with atomic_folder(Path(sys.argv[1]), overwrite=True) as new:
    (new / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_writer(target: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            remove_leftovers(target)
            assert len(names(target.parent)) == 2, "the work of a living writer was taken away"
        finally:
            writer.send_signal(signal.SIGKILL)
    assert (target / "sub" / "file").read_text() == "old"
    assert len(names(target.parent)) == 2
    remove_leftovers(target)
    assert tree(target.parent) == {"folder/sub/file": "old"}
    assert names(target.parent) == ["folder"]


def test_killed_in_the_middle_of_the_swap(target: Path) -> None:
    space = target.parent / ".folder.abc_1234.partial"
    (space / "new").mkdir(parents=True)
    target.rename(space / "old")
    remove_leftovers(target)
    assert tree(target.parent) == {"folder/sub/file": "old"}
    assert names(target.parent) == ["folder"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_next_writer_clears_away_what_killed_ones_left(overwrite: bool, target: Path) -> None:
    swapped, begun = (target.parent / f".folder.{name}.partial" for name in ("abc_1234", "def_5678"))
    (swapped / "new").mkdir(parents=True)
    (begun / "new").mkdir(parents=True)
    target.rename(swapped / "old")
    with contextlib.nullcontext() if overwrite else pytest.raises(OSError, match="not empty"):
        write(target, "new", overwrite=overwrite)
    assert tree(target.parent) == {"folder/sub/file": "new" if overwrite else "old"}
    assert names(target.parent) == ["folder"]


def test_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(target: Path) -> None:
    """Gigabytes of an export that ran out of memory are not found by whoever looks at the bundle."""
    (target.parent / ".folder.abc_1234.partial").mkdir()
    with scratch_folder(target) as scratch:
        (scratch / "encoder.onnx").write_text("large")
        assert names(target.parent) == sorted([scratch.name, "folder"])
        write(target, "new", overwrite=True)
        assert tree(scratch) == {"encoder.onnx": "large"}
    assert tree(target.parent) == {"folder/sub/file": "new"}
    assert names(target.parent) == ["folder"]


def test_a_writer_that_has_just_begun_is_no_leftover(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process clears away leftovers between the making of a folder and its lock."""
    make = tempfile.mkdtemp

    def make_beside_another(**given: Any) -> str:
        made = make(**given)
        remove_leftovers(target)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", make_beside_another)
    write(target, "new")
    assert tree(target.parent) == {"folder/sub/file": "new"}
    assert names(target.parent) == ["folder"]


def test_leftovers_that_go_while_they_are_looked_at(target: Path) -> None:
    """Two processes clear away the same: what one has found the other has removed, as a link to nothing stands for."""
    (target.parent / ".folder.abc_1234.partial").symlink_to("gone")
    write(target, "new", overwrite=True)
    assert (target / "sub" / "file").read_text() == "new"


def test_leftovers_of_other_folders_stay(target: Path) -> None:
    others = [".folder.old.abc_1234.partial", ".folders.abc_1234.partial", "folder.partial"]
    for name in others:
        (target.parent / name).mkdir()
    remove_leftovers(target)
    assert names(target.parent) == sorted([*others, "folder"])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScoreEdgeError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")


def test_a_pipe_is_written_to_directly(tmp_path: Path) -> None:
    """As `--report /dev/stdout | jq`: the link leads to a pipe, which has no path."""
    reading, writing = os.pipe()
    (tmp_path / "report.json").symlink_to(f"/dev/fd/{writing}")
    for path in (Path(f"/dev/fd/{writing}"), tmp_path / "report.json"):
        check_writable(path)
        write_text(path, "{}")
        assert os.read(reading, 100) == b"{}"
    os.close(reading)
    os.close(writing)


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    """As one that is written the plain way: a group that shares a report goes on writing it."""
    write_text(tmp_path / "report.json", "old")
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o666 & ~umask()
    (tmp_path / "report.json").chmod(0o664)
    (tmp_path / "link").symlink_to("report.json")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "report.json").read_text() == "new" and (tmp_path / "link").is_symlink()
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o664
    assert names(tmp_path) == ["link", "report.json"]


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with only_writer(tmp_path / "run"):
        with pytest.raises(ScoreEdgeError, match="another command writes into"), only_writer(tmp_path / "run"):
            pytest.fail("two writers")
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(tmp_path / "run"):
        pass


def test_folders_that_stay_empty_are_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    for hold in (only_writer, scratch_folder):
        with contextlib.suppress(OSError), hold(tmp_path / "kept" / "a" / "b"):
            raise OSError
        assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]
        with hold(tmp_path / "kept" / "a" / "b"):
            (tmp_path / "kept" / "a" / "file").touch()
        assert (tmp_path / "kept" / "a" / "file").exists()
        shutil.rmtree(tmp_path / "kept" / "a")
