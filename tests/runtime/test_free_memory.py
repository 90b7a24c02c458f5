import os
from pathlib import Path

import pytest

from score_edge.runtime import free_memory as module
from score_edge.runtime.free_memory import free_memory


def test_it_is_some_of_what_there_is() -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("only Linux tells")
    found = free_memory()
    assert found is not None and 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_kernel_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEMINFO", tmp_path / "meminfo")
    assert free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  1024 kB\n")
    assert free_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  1024 kB\nMemAvailable:    512 kB\n")
    assert free_memory() == 512 * 1024
