"""Lines as boards printed them: NVIDIA forum posts, issue trackers and repositories, cut nowhere but where marked."""

import random

import pytest

from score_edge.profiling.tegrastats import Tegrastats, board_watts, parse_tegrastats

ORIN_NANO = (
    "11-30-2025 13:26:01 RAM 2461/7620MB (lfb 3x2MB) SWAP 1243/3810MB (cached 5MB) "
    "CPU [19%@729,14%@729,22%@729,8%@729,15%@729,17%@729] EMC_FREQ 4%@2133 GR3D_FREQ 0%@[305] NVDEC off NVJPG off "
    "NVJPG1 off VIC off OFA off APE 200 cpu@46.531C soc2@47.312C soc0@46.593C gpu@48.218C tj@48.843C soc1@48.843C "
    "VDD_IN 5704mW/5704mW VDD_CPU_GPU_CV 831mW/831mW VDD_SOC 1624mW/1624mW"
)
ORIN_NX = (
    "07-28-2026 20:28:42 RAM 3941/15656MB (lfb 6x4MB) SWAP 0/24212MB (cached 0MB) "
    "CPU [1%@1984,7%@1984,3%@1984,2%@1984,0%@1984,5%@1984,1%@1984,2%@1984] GR3D_FREQ 0% cv0@47.156C cpu@52.375C "
    "soc2@45.531C soc0@48.25C cv1@47.968C gpu@50C tj@52.375C soc1@46.156C cv2@44.406C VDD_IN 7956mW/7956mW "
    "VDD_CPU_GPU_CV 2363mW/2363mW VDD_SOC 2506mW/2506mW"
)
AGX_ORIN = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,off] EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] "
    "NVENC0 off APE 174 cpu@52.968C/52.968C soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C "
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
THOR = (
    "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) CPU [2%@972,3%@972] cpu@60.406C "
    "tj@63.281C soc012@58.468C gpu@62.906C soc345@63.281C VDD_GPU 37528mW/37528mW/37528mW "
    "VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
)
THOR_R38_4 = (
    "EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW "
    "VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW"
)
XAVIER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C "
    "thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
TX2 = (
    "RAM 1685/7854MB (lfb 1044x4MB) SWAP 278/8192MB (cached 23MB) CPU [0%@1303,0%@345,0%@345,0%@1419,0%@1420,0%@1421] "
    "EMC_FREQ 0%@1866 GR3D_FREQ 0%@140 APE 150 MTS fg 1% bg 8% BCPU@41C MCPU@41C GPU@39C PLL@41C Tboard@37C "
    "Tdiode@37.25C PMIC@100C thermal@39.9C VDD_IN 1931/1931 VDD_CPU 231/231 VDD_GPU 154/154 VDD_SOC 385/385 "
    "VDD_WIFI 38/38 VDD_DDR 326/326"
)


@pytest.mark.parametrize(
    ("line", "ram", "gpu", "emc", "cores", "sensor", "rails", "board"),
    [
        (ORIN_NANO, (2461, 7620), (0, 305), 4, 6, ("gpu", 48.218), 3, 5.704),
        (ORIN_NX, (3941, 15656), (0, None), None, 8, ("gpu", 50.0), 3, 7.956),
        (AGX_ORIN, (20642, 62817), (12, 1300), 3, 1, ("soc0", 49.531), 3, 13.907),
        (THOR, (36529, 125749), (None, None), None, 2, ("soc012", 58.468), 4, 87.426),
        (THOR_R38_4, None, (None, 314), 0, 0, None, 4, 19.780),
        (XAVIER, (14700, 15692), (0, None), 0, 8, ("tdiode", 32.0), 6, 7.632),
        (TX2, (1685, 7854), (0, 140), 0, 6, ("pll", 41.0), 6, 1.931),
    ],
    ids=["orin-nano", "orin-nx", "agx-orin", "thor", "thor-r38.4", "agx-xavier", "tx2"],
)
def test_lines_of_every_board(line, ram, gpu, emc, cores, sensor, rails, board):
    stats = parse_tegrastats(line)
    assert stats.ram_mb == ram
    assert (stats.gpu_load, stats.gpu_mhz) == gpu
    assert stats.memory_load == emc
    assert len(stats.cpu_load) == len(stats.cpu_mhz) == cores
    if sensor:
        assert stats.celsius[sensor[0]] == sensor[1]
    assert len(stats.watts) == rails
    assert board_watts(stats.watts) == pytest.approx(board)


def test_the_instantaneous_figure_is_taken_not_the_average():
    assert parse_tegrastats(THOR).watts["VIN"] == 87.426


def test_negative_power_is_kept():
    stats = parse_tegrastats("VDD_GPU -392mW/-392mW VDD_IN 4100mW")
    assert stats.watts == {"VDD_GPU": -0.392, "VDD_IN": 4.1}


def test_nano_has_rails_of_its_own():
    assert board_watts(parse_tegrastats("POM_5V_IN 4096/3500 POM_5V_GPU 0/0 POM_5V_CPU 1000/900").watts) == 4.096


def test_sensors_that_are_off_are_left_out():
    assert parse_tegrastats("cv0@-256C gpu@40C").celsius == {"gpu": 40.0}


def test_no_total_is_made_up():
    assert board_watts({"VDD_SOC": 1.0, "GPU": 2.0}) is None


def test_garbage_gives_nothing():
    assert parse_tegrastats("").empty
    assert parse_tegrastats("tegrastats: command not found").empty
    rng = random.Random(0)
    for line in (ORIN_NANO, AGX_ORIN, THOR_R38_4, XAVIER):
        for _ in range(200):
            broken = list(line)
            for _ in range(8):
                broken[rng.randrange(len(broken))] = rng.choice("%@[]/,mWC \0é9")
            assert isinstance(parse_tegrastats("".join(broken)[: rng.randrange(len(line))]), Tegrastats)
