from pathlib import Path

import pytest

from score_edge.profiling import board
from score_edge.profiling.board import Board

RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def orin(tmp_path):
    cpu, thermal = "sys/devices/system/cpu", "sys/class/thermal/thermal_zone"
    return write(
        tmp_path,
        {
            "etc/nv_tegra_release": RELEASE,
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
            "proc/meminfo": "MemTotal:        7802848 kB\nMemAvailable:    5242880 kB\n",
            "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes fphp asimdhp asimddp\n",
            "var/lib/nvpmodel/status": "pmode:0002",
            f"{cpu}/cpufreq/policy0/scaling_governor": "schedutil\n",
            f"{cpu}/cpufreq/policy0/scaling_max_freq": "1728000\n",
            f"{cpu}/cpufreq/policy4/scaling_governor": "schedutil\n",
            f"{cpu}/cpufreq/policy4/scaling_max_freq": "1728000\n",
            "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
            "sys/class/devfreq/emc/max_freq": "1\n",
            f"{thermal}0/type": "cpu-thermal\n",
            f"{thermal}0/temp": "48843\n",
            f"{thermal}1/type": "cv0-thermal\n",
            f"{thermal}1/temp": "-256000\n",
            "sys/class/hwmon/hwmon2/oc1_event_cnt": "3\n",
        },
    )


def test_a_jetson_is_read_from_its_files(orin):
    found = Board.read(orin)
    assert found.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (found.l4t, found.jetpack, found.power_mode) == ("36.4.3", "6.2", "2")
    assert (found.governor, found.cpu_mhz, found.gpu_mhz) == ("schedutil", (1728, 1728), (1020,))
    assert board.temperatures(orin) == {"cpu-thermal": 48.843}
    assert board.throttle_counts(orin) == {"over-current oc1": 3}
    assert board.memory_bytes(orin) == (5242880 * 1024, 7802848 * 1024)
    assert board.cpu_features(orin) == ["asimddp", "asimdhp", "fphp"]


def test_nothing_is_made_up_where_files_are_missing(tmp_path):
    found = Board.read(tmp_path)
    assert found.model and found.cpus >= 1
    assert (found.l4t, found.jetpack, found.power_mode, found.governor) == (None, None, None, None)
    assert (found.cpu_mhz, found.gpu_mhz) == ((), ())
    assert board.temperatures(tmp_path) == board.throttle_counts(tmp_path) == {}
    assert board.memory_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [((35, 4, 1), None), ((36, 4, 7), "6.2"), ((36, 3, 0), "6.0"), ((38, 2, 1), "7.0"), ((99, 0, 0), None)],
)
def test_jetpack_of_an_l4t(release, jetpack):
    assert board.jetpack(release) == jetpack


@pytest.mark.parametrize("text", ["", "R36", "\0\0", "# R (release), REVISION: x"])
def test_a_garbled_release_file_is_no_jetson(tmp_path, text):
    assert board.l4t_release(write(tmp_path, {"etc/nv_tegra_release": text})) is None


def test_this_machine_can_be_read():
    assert Board.read().machine
    assert board.memory_bytes() is not None
