import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lines(script: str, *options: str) -> list[str]:
    command = [sys.executable, str(ROOT / "tools" / script), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_rule_is_asked_every_question():
    found = lines("rules_not_taken.py", "--clips", "2", "--steps", "8")
    assert [line.split()[0] for line in found] == [
        "score:dither=0",
        "score:dither=0.25",
        "score:dither=0.5",
        "score:dither=1",
        "every-step",
        "half-random",
        "oracle",
    ]
    assert len({line.split(" of ")[1].split(":")[0] for line in found}) == 1


def test_every_distance_is_asked_every_question():
    found = lines("far_from_prompt.py", "--clips", "1", "--steps", "4")
    assert [int(line.split()[0]) for line in found] == [0, 16, 64, 128, 256, 512, 1024, 20000]
    assert len({line.split(" of ")[1] for line in found}) == 1


def test_first_words_are_as_much_work_in_an_old_stream():
    found = lines("first_word.py", "reference", "--after", "8", "24", "--window", "8")
    young, old = (line.partition(" steps: ")[2] for line in found[:2])
    assert young == old and young.endswith(" tokens in 1 calls, 8 steps held, 256 cells")
    assert "ask unpruned" in found[2]


def test_both_memories_are_asked_about_the_last_steps_and_the_past():
    found = lines("newest_steps.py", "--clips", "2", "--steps", "16")
    assert found[0].startswith("tokens held at the end: ")
    assert {"last steps", "past", "now"} <= {line[:12].strip() for line in found[1:]}


def test_one_clip_tells_nothing_of_what_caching_cells_costs_on_others():
    found = lines("incremental_answers.py", "--clips", "1")
    assert found[0].startswith("threshold 12: ") and all("(-100.00 to +100.00) points" in line for line in found[1:])


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("newest_steps.py", "--about", "past,passt"), "nothing is asked about 'passt'"),
        (("look_again.py", "--seed", "2"), "thresholds are chosen on the clips of this seed"),
    ],
)
def test_what_would_measure_nothing_is_refused(command, text):
    script, *options = command
    called = [sys.executable, str(ROOT / "tools" / script), *options]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and text in done.stderr


def test_a_bundle_is_as_good_as_itself():
    arm = ("--arm", "reference")
    rest = ("--retention", "0.1", "--world", "plain,rain", "--steps", "4", "--clips", "2", "--seed", "7")
    found = lines("compare_bundles.py", *arm, "score", *arm, "score", *arm, "newest", *rest)
    assert [line.split(",")[0] for line in found if line.startswith("at")] == ["at 1", "at 0.1"]
    whole, pruned = found[1:4], found[5:8]
    assert all("(" not in line for line in (*whole, *pruned[:2])) and "points" not in whole[0]
    assert pruned[0].split()[:2] == pruned[1].split()[:2] and pruned[2].endswith("reference newest")
