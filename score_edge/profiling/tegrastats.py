"""One line of NVIDIA's tegrastats, of any Jetson from TX2 to Thor, as numbers.

The format differs per board and release: one, two or three power figures with or without a unit, temperatures with an
average behind them, cores that are off, no GPU load at all. What a line does not say stays None or absent, never zero.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_TEMPERATURE = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C")
# Names of rails are upper case; "RAM 1/2MB" and "CPU 618/618" differ in what follows the last number.
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?/(-?\d+)(?:mW)?(?:/-?\d+(?:mW)?)?(?=\s|$)")
_SINGLE_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (-?\d+)mW(?=\s|$)")
_LOAD = re.compile(r"\b(EMC|GR3D)_FREQ(?: (\d+)%)?(?:\s?@(?:\[([\d,]+)\]|(\d+)))?")
_IDLE_TEMPERATURE_C = -100.0
"""Sensors that are switched off read -256 C or so."""


@dataclass(frozen=True, slots=True)
class Tegrastats:
    """What one line says.

    Attributes:
        ram_mb: (used, total), or None.
        cpu_load: percent per core that is on.
        cpu_mhz: clock per core that is on, where given.
        gpu_load: percent, or None.
        gpu_mhz: clock of the fastest part, or None.
        memory_load: percent of the memory controller, or None.
        celsius: temperature by sensor, names in lower case.
        watts: instantaneous power by rail.
    """

    ram_mb: tuple[int, int] | None = None
    cpu_load: tuple[int, ...] = ()
    cpu_mhz: tuple[int, ...] = ()
    gpu_load: int | None = None
    gpu_mhz: int | None = None
    memory_load: int | None = None
    celsius: dict[str, float] = field(default_factory=dict)
    watts: dict[str, float] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """True where nothing was understood."""
        return self == Tegrastats()


def parse_tegrastats(line: str) -> Tegrastats:
    """Read a line; what is not understood is skipped, garbage gives an empty result.

    Example:
        >>> parse_tegrastats("RAM 2461/7620MB GR3D_FREQ 0%@[305] gpu@48.2C VDD_IN 5704mW/5704mW").watts
        {'VDD_IN': 5.704}
    """
    ram = _RAM.search(line)
    cpu = _CPU.search(line)
    cores = _CORE.findall(cpu.group(1)) if cpu else []
    loads = {name: (load, listed or single) for name, load, listed, single in _LOAD.findall(line)}
    gpu_load, gpu_clocks = loads.get("GR3D", ("", ""))
    powers = [*_POWER.findall(line), *((name, power, "") for name, power in _SINGLE_POWER.findall(line))]
    return Tegrastats(
        ram_mb=(int(ram.group(1)), int(ram.group(2))) if ram else None,
        cpu_load=tuple(int(load) for load, _ in cores),
        cpu_mhz=tuple(int(clock) for _, clock in cores if clock),
        gpu_load=_number(gpu_load),
        gpu_mhz=max(map(int, re.findall(r"\d+", gpu_clocks)), default=None),
        memory_load=_number(loads.get("EMC", ("", ""))[0]),
        celsius={
            name.lower(): float(value)
            for name, value in _TEMPERATURE.findall(line)
            if float(value) > _IDLE_TEMPERATURE_C
        },
        watts={name: int(power) / 1000 for name, power, _ in powers},
    )


# The rails that together are the whole board, best first: an input rail where there is one, else all that is measured.
_INPUTS = (("VDD_IN",), ("VIN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))
_XAVIER = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")


def board_watts(watts: Mapping[str, float]) -> float | None:
    """Power of the whole board from its rails; None where they do not add up to one.

    Orin Nano and NX, Xavier NX and TX2 measure their input as VDD_IN, Thor as VIN, Nano as POM_5V_IN. AGX Orin has
    three rails behind the input, AGX Xavier six.
    """
    for rails in (*_INPUTS, _XAVIER):
        if all(rail in watts for rail in rails):
            return sum(watts[rail] for rail in rails)
    return None


def _number(text: str) -> int | None:
    return int(text) if text else None
