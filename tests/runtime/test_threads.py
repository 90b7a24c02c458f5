"""Threads for the CPUs that are free, beside a real busy process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from score_edge.errors import ScoreEdgeError
from score_edge.runtime import threads
from score_edge.runtime.threads import FreeThreads, OtherLoad, other_load, usable_cpus

pytestmark = pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="the load of others is read from /proc/stat")


class Machine:
    """A /proc/stat whose CPUs are as busy as told, and the clock beside it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.now, self.own, self.ticks = path, 100.0, 5.0, 1000
        monkeypatch.setattr(threads, "_STAT", path)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
        self.run(0, 0)

    def run(self, own: float, others: float) -> None:
        """One second in which this process and others keep so many CPUs busy."""
        self.now, self.own = self.now + 1, self.own + own
        self.ticks += int((own + others) * os.sysconf("SC_CLK_TCK"))
        lines = [f"cpu  {self.ticks} 0 0 9999 0 0 0 0 0 0", f"cpu0 {self.ticks} 0 0 777 55 0 0 0 0 0"]
        lines += [f"cpu{i} 0 0 0 500 0 0 0 0 0 0" for i in (1, 2, 3)] + [
            "cpu4 99999999 0 0 0 0 0 0 0 0 0",
            "intr 1 2 3",
        ]
        self.path.write_text("\n".join(lines))


def test_as_many_threads_as_cpus_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "stat", monkeypatch)
    free = FreeThreads(4)
    found = []
    for own, others in ((0, 0), (3.9, 0.1), (3, 1), (2, 2), (0.2, 3.8), (1, 0), (4, 0)):
        machine.run(own, others)
        found.append(free.count())
    assert found == [4, 4, 3, 2, 1, 4, 4]


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {"cpu.max": "250000 100000"}, 2),  # docker --cpus 2.5
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("0::/", {"cpu.max": "9900000 100000"}, 4),
        ("0::/system.slice/score-edge.service", {"system.slice/score-edge.service/cpu.max": "300000 100000"}, 3),
        ("0::/a.slice/b", {"a.slice/cpu.max": "200000 100000", "a.slice/b/cpu.max": "max 100000"}, 2),
        ("0::/docker/0123", {"cpu.max": "200000 100000"}, 2),  # the host's path, and the container's own files
        ("9:name=systemd:/\n8:cpu:/", {"cpu.max": "100000 100000"}, 4),  # cgroup v1
        ("0::/", {"cpu.max": "nonsense"}, 4),
        ("", {}, 4),
    ],
)
def test_no_more_threads_than_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    monkeypatch.setattr(threads, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert usable_cpus() == expected


def test_others_may_have_what_a_quota_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "stat", monkeypatch)
    free = FreeThreads(2)
    found = []
    for others in (0, 2, 3, 4):
        machine.run(0, others)
        found.append(free.count())
    assert found == [2, 2, 1, 1]


def test_looks_too_close_together_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "stat", monkeypatch)
    load = OtherLoad()
    assert load.cpus() is None
    machine.run(0, 2)
    assert load.cpus() == pytest.approx(2, abs=0.05)


def test_a_kernel_that_tells_nothing_leaves_every_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_STAT", tmp_path / "nothing")
    assert FreeThreads(3).count() == 3 and other_load(0.2) == 0


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3})
    for fine in (None, 1, 2):
        threads.check_threads(fine)
    with pytest.raises(ScoreEdgeError, match="3 threads are more than the 2 CPUs") as caught:
        threads.check_threads(3)
    assert caught.value.hint.startswith("--threads 2")


def test_a_busy_process_is_seen_and_our_own_work_is_not() -> None:
    before = other_load(0.4)
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        assert other_load(0.5) > min(before + 0.3, usable_cpus() - 0.6)
    finally:
        spin.kill()
        spin.wait()


@pytest.mark.benchmark
def test_prefill_beside_a_busy_process() -> None:
    """The shipped model, a clip of 16 steps at 15 %, prefilled 100 times: idle and beside a process that spins."""
    from score_edge.bundle.folder import Bundle
    from score_edge.core import KeptTokens
    from score_edge.reference import world
    from score_edge.runtime.pipeline import Pipeline

    seconds: dict[str, list[float]] = {}
    with (
        Pipeline(Bundle.open("reference"), context=2048) as adapted,
        Pipeline(Bundle.open("reference"), context=2048, threads=usable_cpus()) as fixed,
    ):
        tokens = adapted.encode(world.make_clip(world.TEST_SEED, 0, 16).frames()).tokens
        keep = np.random.default_rng(0).random(tokens.shape[:2]) < 0.15
        segments = adapted.layout.clip(KeptTokens.gather(tokens, keep, adapted.layout.grid)).segments

        def prefill(name: str, count: int, *pipelines: tuple[str, Pipeline]) -> None:
            for _ in range(count):
                for how, pipeline in pipelines:
                    pipeline.sequence.clear()
                    began = time.perf_counter()
                    pipeline.sequence.append(*segments)
                    seconds.setdefault(f"{how}, {name}", []).append(time.perf_counter() - began)

        prefill("idle", 300, ("adapted", adapted), ("fixed", fixed))
        spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.5)
            prefill("busy", 300, ("adapted", adapted))
            prefill("busy", 100, ("fixed", fixed))
        finally:
            spin.kill()
            spin.wait()
    found = {name: np.percentile(values, [50, 99]) * 1e3 for name, values in seconds.items()}
    for name, (median, p99) in found.items():
        print(f"{name}: median {median:.1f} ms, p99 {p99:.1f}")
    assert found["adapted, idle"][0] <= 1.03 * found["fixed, idle"][0]
    assert found["adapted, busy"][1] <= 3 * found["adapted, idle"][0]
