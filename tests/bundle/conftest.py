"""What tests of folders share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder with a folder ``locked`` that this process may not look into; root is nobody meanwhile."""
    root = os.getuid() == 0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name).resolve()
        place.chmod(0o777)
        (place / "locked").mkdir(0o000)
        if root:
            os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield place
        finally:
            if root:
                os.setresuid(0, 0, 0)
