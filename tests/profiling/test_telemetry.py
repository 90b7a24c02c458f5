import threading
import time
from pathlib import Path

import pytest

from score_edge.profiling import meters
from score_edge.profiling import telemetry as module
from score_edge.profiling.meters import Ina3221, Nvml, Rapl, Reading, TegrastatsMeter, open_meters
from score_edge.profiling.telemetry import Telemetry, Usage


def write_rail(root: Path, channel: int, rail: str, millivolt: int, milliampere: int) -> None:
    folder = root / "sys/class/hwmon/hwmon1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("ina3221\n")
    (folder / f"in{channel}_label").write_text(f"{rail}\n")
    (folder / f"in{channel}_input").write_text(f"{millivolt}\n")
    (folder / f"curr{channel}_input").write_text(f"{milliampere}\n")


class Scripted:
    """A meter that says what it is told."""

    name, covers, present = "scripted", "test", True

    def __init__(self, readings: list[Reading]) -> None:
        self.readings = readings

    def read(self) -> Reading:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def close(self) -> None:
        pass


def test_the_rails_of_an_orin_nano(tmp_path):
    write_rail(tmp_path, 1, "VDD_IN", 5000, 1140)
    write_rail(tmp_path, 2, "VDD_CPU_GPU_CV", 5000, 160)
    (tmp_path / "sys/class/hwmon/hwmon1/in7_label").write_text("sum of shunt voltages\n")
    meter = Ina3221(tmp_path)
    assert meter.present and meter.covers == "whole board"
    reading = meter.read()
    assert reading.watts == 5.7
    assert reading.rails == {"VDD_IN": 5.7, "VDD_CPU_GPU_CV": 0.8}


def test_single_rails_are_not_called_the_board(tmp_path):
    write_rail(tmp_path, 1, "VDD_SOC", 5000, 100)
    meter = Ina3221(tmp_path)
    assert meter.covers == "single rails" and meter.read().watts is None


def test_rapl_goes_on_after_its_counter_ran_over(tmp_path):
    folder = tmp_path / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    counter = folder / "energy_uj"
    counter.write_text("9000000\n")
    meter = Rapl(tmp_path)
    counter.write_text("9500000\n")
    assert meter.read().joules == pytest.approx(0.5)
    counter.write_text("500000\n")
    assert meter.read().joules == pytest.approx(1.5)


def test_a_machine_without_sensors_says_nothing_not_zero(tmp_path):
    assert open_meters(tmp_path) == []
    with Telemetry([]) as telemetry:
        now = time.perf_counter()
        assert telemetry.usage(now - 1, now) == Usage()


def test_power_is_integrated_over_the_stretch_only():
    readings = [Reading(watts=watts) for watts in (2.0, 4.0, 4.0)]
    energy = module._energy([0.0, 1.0, 3.0], readings, 0.5, 2.0)
    assert energy == pytest.approx(0.5 * 3.5 + 1.0 * 4.0)
    assert module._energy([1.0], [Reading(watts=3.0)], 0.0, 2.0) == pytest.approx(6.0)  # one reading is held
    assert module._energy([0.0, 1.0], [Reading(load=1.0)] * 2, 0.0, 1.0) is None


def test_counters_are_taken_as_they_are():
    readings = [Reading(joules=10.0), Reading(joules=30.0)]
    assert module._energy([0.0, 2.0], readings, 0.5, 1.5) == pytest.approx(10.0)


def test_the_first_meter_that_knows_the_power_is_named():
    meters = [Scripted([Reading(load=50, celsius=61.5)]), Scripted([Reading(watts=8.0, rails={"VDD_IN": 8.0})])]
    with Telemetry(meters, interval_s=0.005) as telemetry:
        began = time.perf_counter()
        time.sleep(0.05)
        telemetry.sample()
        usage = telemetry.usage(began, time.perf_counter())
    assert usage.watts == pytest.approx(8.0) and usage.meter == "scripted (test)"
    assert usage.rails == {"VDD_IN": 8.0}
    assert (usage.load, usage.celsius, usage.device_bytes) == (50, 61.5, None)
    assert telemetry.power()[0][1] == 8.0


def test_tegrastats_runs_in_the_background(tmp_path):
    tool = tmp_path / "tegrastats"
    tool.write_text(
        "#!/bin/sh\nwhile :; do echo 'GR3D_FREQ 12%@[1300] gpu@50C VDD_IN 4500mW/4400mW'; sleep 0.05; done\n"
    )
    tool.chmod(0o755)
    meter = TegrastatsMeter(command=(str(tool),))
    assert meter.present
    deadline = time.monotonic() + 10
    while meter.read().watts is None and time.monotonic() < deadline:
        time.sleep(0.02)
    reading = meter.read()
    meter.close()
    assert (reading.watts, reading.load, reading.celsius) == (4.5, 12, 50.0)


def test_an_absent_tegrastats_is_no_meter():
    assert not TegrastatsMeter(command=("no-such-tool-here",)).present


def test_nvml_says_what_it_knows(monkeypatch):
    import sys
    import types

    def unknown(*_):
        raise RuntimeError("NVMLError_NotSupported")

    fake = types.ModuleType("pynvml")
    fake.NVML_TEMPERATURE_GPU = 0
    fake.nvmlInit = fake.nvmlShutdown = lambda: None
    fake.nvmlDeviceGetHandleByIndex = lambda index: "handle"
    fake.nvmlDeviceGetPowerUsage = lambda handle: 71500
    fake.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=37)
    fake.nvmlDeviceGetTemperature = unknown
    fake.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=2 << 30)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = Nvml()
    assert meter.present
    assert meter.read() == Reading(watts=71.5, load=37, device_bytes=2 << 30)
    meter.close()
    fake.nvmlInit = unknown
    assert not Nvml().present


def test_a_counter_is_read_by_one_thread_at_a_time(tmp_path, monkeypatch):
    """A run samples beside the thread that does: what another had read later must not look like a counter run over."""
    folder = tmp_path / "sys/class/powercap/intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    counter = folder / "energy_uj"
    counter.write_text("1000\n")
    telemetry = Telemetry([Rapl(tmp_path)])
    read_number, second = meters.read_number, threading.Thread(target=telemetry.sample)

    def overtaken(path):
        value = read_number(path)
        if not second.ident:
            counter.write_text("5000000\n")
            second.start()
            second.join(0.3)
        return value

    monkeypatch.setattr(meters, "read_number", overtaken)
    telemetry.sample()
    second.join()
    assert [row[0].joules for row in telemetry._readings] == pytest.approx([0.0, 4.999])
