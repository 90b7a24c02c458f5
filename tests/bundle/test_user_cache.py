"""Where a user's own files lie, also without a home, and that nobody else put something there."""

import os
from pathlib import Path

import pytest

from score_edge.bundle.user_cache import make_private, private, user_cache


def test_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("engines") == tmp_path / "score-edge" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache("engines") == tmp_path / "home" / ".cache" / "score-edge" / "engines"


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", staticmethod(no_home))
    assert user_cache("engines").parts[-3:] == (f"cache-{os.getuid()}", "score-edge", "engines")


def test_with_the_home_of_another_user(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as somebody else than its image was made for."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(elsewhere / "locked" / "home"))
    assert user_cache("engines").parts[-3:] == (f"cache-{os.getuid()}", "score-edge", "engines")


def test_what_was_written_before_the_home_became_read_only_is_found(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under systemd's ProtectHome=read-only, with which `score-edge serve --systemd` runs a server."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(elsewhere / "cache"))
    (elsewhere / "cache" / "score-edge" / "engines").mkdir(parents=True)
    (elsewhere / "cache").chmod(0o555)
    assert user_cache("engines") == elsewhere / "cache" / "score-edge" / "engines"
    assert user_cache("others").parts[-3] == f"cache-{os.getuid()}"  # this could not be made there


def test_a_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = user_cache("engines") / "key"
    before = os.umask(0o002)  # Ubuntu's: the group may write
    try:
        make_private(folder)
    finally:
        os.umask(before)
    assert all(private(place) for place in (folder, folder.parent, folder.parent.parent))
    folder.chmod(0o775)
    assert not private(folder) and not private(tmp_path / "nowhere")
