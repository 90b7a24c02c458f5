"""Sensors that tell power: the rails of a Jetson, an NVIDIA GPU, the package of a PC. Only what answers is opened."""

import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from score_edge.profiling.board import ROOT, read_number, read_text
from score_edge.profiling.tegrastats import Tegrastats, board_watts, parse_tegrastats


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter says at one moment; None where it does not know.

    Attributes:
        watts: power now, of what the meter covers.
        joules: a counter that only grows, where the sensor has one; it is then exact and watts is not needed.
        rails: watts by rail.
        load: percent of the GPU.
        celsius: the hottest sensor.
        device_bytes: memory in use on a GPU of its own.
    """

    watts: float | None = None
    joules: float | None = None
    rails: dict[str, float] | None = None
    load: float | None = None
    celsius: float | None = None
    device_bytes: int | None = None


class Meter(Protocol):
    """One sensor."""

    name: str
    covers: str

    @property
    def present(self) -> bool:
        """Whether there is anything to read."""
        ...

    def read(self) -> Reading:
        """What it says now; must cost microseconds and never raise."""
        ...

    def close(self) -> None:
        """Stop it."""
        ...


class Ina3221:
    """A Jetson's power monitors through sysfs: millivolt times milliampere per labelled rail."""

    name = "INA3221"

    def __init__(self, root: Path = ROOT) -> None:
        self._rails: dict[str, tuple[Path, Path]] = {}
        for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
            if read_text(folder / "name") != "ina3221":
                continue
            for label in sorted(folder.glob("in*_label")):
                channel = label.name.removeprefix("in").removesuffix("_label")
                volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
                if (rail := read_text(label)) and read_number(volts) is not None and read_number(amperes) is not None:
                    self._rails[rail] = volts, amperes
        self.covers = "whole board" if board_watts(dict.fromkeys(self._rails, 0.0)) is not None else "single rails"

    @property
    def present(self) -> bool:
        """Whether there is a rail."""
        return bool(self._rails)

    def read(self) -> Reading:
        """Watts per rail, and of the board where the rails add up to it."""
        rails = {}
        for rail, (volts, amperes) in self._rails.items():
            millivolt, milliampere = read_number(volts), read_number(amperes)
            if millivolt is not None and milliampere is not None:
                rails[rail] = millivolt * milliampere / 1e6
        return Reading(watts=board_watts(rails), rails=rails)

    def close(self) -> None:
        """Nothing is held open."""


class Rapl:
    """Energy counters of an x86 package (Intel's interface, AMD has it too); Linux shows them to root only."""

    name = "RAPL"
    covers = "CPU package"

    def __init__(self, root: Path = ROOT) -> None:
        self._counters: list[tuple[Path, float]] = []
        self._before: list[int] = []
        self._joules = 0.0
        for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
            name = read_text(folder / "name") or ""
            if name.startswith("package") and (now := read_number(folder / "energy_uj")) is not None:
                self._counters.append((folder / "energy_uj", read_number(folder / "max_energy_range_uj") or 1 << 32))
                self._before.append(now)

    @property
    def present(self) -> bool:
        """Whether a counter may be read."""
        return bool(self._counters)

    def read(self) -> Reading:
        """Joules since it was opened; a counter that ran over is carried on."""
        for i, (path, span) in enumerate(self._counters):
            now = read_number(path)
            if now is not None:
                self._joules += (now - self._before[i]) % span / 1e6
                self._before[i] = now
        return Reading(joules=self._joules)

    def close(self) -> None:
        """Nothing is held open."""


class Nvml:
    """The first NVIDIA GPU of its own, through pynvml where the user installed it."""

    name = "NVML"
    covers = "GPU"

    def __init__(self) -> None:
        self._nvml: Any = None
        try:
            import pynvml  # type: ignore[import-not-found, unused-ignore]

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            self._nvml = pynvml
        except Exception:  # not installed, no driver, no GPU: its exceptions share no base class with ImportError
            return

    @property
    def present(self) -> bool:
        """Whether there is a GPU that answers."""
        return self._nvml is not None

    def read(self) -> Reading:
        """Watts, load, temperature and memory of the GPU; what it does not tell stays None."""
        nvml, handle = self._nvml, self._handle

        def ask(question: Callable[[], Any]) -> Any:
            try:
                return question()
            except Exception:  # NVMLError_NotSupported and its many siblings
                return None

        power = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return Reading(
            watts=None if power is None else power / 1000,
            load=ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            celsius=ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            device_bytes=ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
        )

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()


class TegrastatsMeter:
    """NVIDIA's own tool in the background: GPU load and temperatures, and the rails where sysfs does not show them.

    Args:
        interval_ms: between lines.
        command: what to start; a test gives another one.
    """

    name = "tegrastats"
    covers = "whole board"

    def __init__(self, interval_ms: int = 100, command: tuple[str, ...] = ("tegrastats",)) -> None:
        self._latest = Tegrastats()
        self._process: subprocess.Popen[str] | None = None
        if shutil.which(command[0]) is None:
            return
        try:
            self._process = subprocess.Popen(
                [*command, "--interval", str(interval_ms)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError:
            return
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    @property
    def present(self) -> bool:
        """Whether it runs."""
        return self._process is not None

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout or ():
            if not (stats := parse_tegrastats(line)).empty:
                self._latest = stats

    def read(self) -> Reading:
        """The latest line."""
        stats = self._latest
        return Reading(
            watts=board_watts(stats.watts),
            rails=stats.watts or None,
            load=stats.gpu_load,
            celsius=max(stats.celsius.values(), default=None),
        )

    def close(self) -> None:
        """End the tool."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def open_meters(root: Path = ROOT) -> list[Meter]:
    """Every sensor that answers here, those that tell the power of the most first."""
    candidates: list[Meter] = [Ina3221(root), Rapl(root)]
    if root == ROOT:  # the others speak to this machine's drivers, not to files
        candidates[1:1] = [TegrastatsMeter(), Nvml()]
    return [meter for meter in candidates if meter.present]
