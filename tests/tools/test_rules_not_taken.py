import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_rule_is_asked_every_question():
    command = [sys.executable, str(ROOT / "tools/rules_not_taken.py"), "--clips", "2", "--steps", "8"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines][1:] == ["spread", "told"]
    assert len({line.split(" of ")[1].split(":")[0] for line in lines}) == 1
