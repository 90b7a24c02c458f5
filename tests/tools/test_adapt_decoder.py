import subprocess
import sys
from pathlib import Path

import pytest

from score_edge.bundle.folder import Bundle

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_only_the_decoder_is_another_one(tmp_path):
    command = [sys.executable, ROOT / "tools/adapt_decoder.py", "reference", tmp_path / "out", "--clips", "8"]
    subprocess.run([*command, "--seconds", "1"], check=True, timeout=280)
    ours, adapted = Bundle.open("reference"), Bundle.open(f"{tmp_path / 'out'}")
    same = {name: path.read_bytes() == adapted.paths[name].read_bytes() for name, path in ours.paths.items()}
    assert {name for name, equal in same.items() if not equal} == {"llm.gguf"}
