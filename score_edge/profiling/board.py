"""What this machine is and how it is set: model, L4T, power mode, clocks, temperatures, throttling; read from files.

Every function takes the root of the file system, so that a test can show it another board's. What is not there is
None or an empty dictionary.
"""

import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from score_edge.runtime.threads import usable_cpus

ROOT = Path("/")
# The newest L4T whose number is not above the board's decides.
_JETPACKS = {
    (36, 2, 0): "6.0 DP",
    (36, 3, 0): "6.0",
    (36, 4, 0): "6.1",
    (36, 4, 3): "6.2",
    (38, 2, 0): "7.0",
    (38, 4, 0): "7.1",
}
_RELEASE = re.compile(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+)(?:\.(\d+))?")
_QUERY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Board:
    """Settings that decide how fast a run is; two runs compare only where these are equal.

    Attributes:
        model: the board, else the CPU.
        machine: architecture and kernel.
        cpus: that this process may use.
        l4t: for example "36.4.3"; None off a Jetson.
        jetpack: that goes with it, as far as known here.
        power_mode: nvpmodel's name or number.
        governor: CPU frequency governor, several joined by "+".
        cpu_mhz: highest clock the governor may choose now, per cluster.
        gpu_mhz: the same of the GPU.
    """

    model: str
    machine: str
    cpus: int
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    governor: str | None = None
    cpu_mhz: tuple[int, ...] = ()
    gpu_mhz: tuple[int, ...] = ()

    @staticmethod
    def read(root: Path = ROOT) -> "Board":
        """Look at this machine, or at a copy of another one's files."""
        release = l4t_release(root)
        policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        governors = dict.fromkeys(name for path in policies if (name := read_text(path / "scaling_governor")))
        return Board(
            model=_model(root),
            machine=f"{platform.machine()} {platform.release()}",
            cpus=usable_cpus(),
            l4t=".".join(map(str, release)) if release else None,
            jetpack=jetpack(release) if release else None,
            power_mode=power_mode(root),
            governor="+".join(governors) or None,
            cpu_mhz=tuple(khz // 1000 for path in policies if (khz := read_number(path / "scaling_max_freq"))),
            gpu_mhz=tuple(hz // 1_000_000 for path in gpu_clocks(root) if (hz := read_number(path / "max_freq"))),
        )


def l4t_release(root: Path = ROOT) -> tuple[int, int, int] | None:
    """(major, minor, patch) of NVIDIA's Jetson Linux from /etc/nv_tegra_release."""
    found = _RELEASE.search(read_text(root / "etc/nv_tegra_release") or "")
    return (int(found.group(1)), int(found.group(2)), int(found.group(3) or 0)) if found else None


def jetpack(release: tuple[int, int, int]) -> str | None:
    """The JetPack an L4T belongs to: the newest known one of the same major number."""
    known = [name for number, name in _JETPACKS.items() if number[0] == release[0] and number <= release]
    return known[-1] if known else None


def power_mode(root: Path = ROOT) -> str | None:
    """nvpmodel's mode: its name when nvpmodel answers, else the number in its status file."""
    if root == ROOT and shutil.which("nvpmodel"):
        try:
            said = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=_QUERY_SECONDS).stdout
        except (OSError, subprocess.SubprocessError):
            said = ""
        if found := re.search(r"NV Power Mode:\s*(\S+)", said):
            return found.group(1)
    found = re.search(r"pmode:0*(\d+)", read_text(root / "var/lib/nvpmodel/status") or "")
    return found.group(1) if found else None


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius per thermal zone."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = read_text(zone / "type"), read_number(zone / "temp")
        if name and value is not None and value > -100_000:  # a sensor that is off reads -256 C
            found[name] = value / 1000
    return found


def throttle_counts(root: Path = ROOT) -> dict[str, int]:
    """How often each guard slowed the machine down since it was switched on: over-current, package temperature.

    Only counters that exist are named; the difference over a run is what counts.
    """
    found = {}
    for path in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        if (count := read_number(path)) is not None:
            found[f"over-current {path.name.split('_')[0]}"] = count
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/package_throttle_count"))[:1]:
        if (count := read_number(path)) is not None:
            found["package temperature"] = count
    return found


def gpu_clocks(root: Path = ROOT) -> list[Path]:
    """The devfreq folders of a Jetson's GPU."""
    devices = (root / "sys/class/devfreq").glob("*")
    return sorted(path for path in devices if re.search(r"gpu|gpc|gv11b|ga10b|gp10b", path.name))


def memory_bytes(root: Path = ROOT) -> tuple[int, int] | None:
    """(available, total) bytes of memory."""
    text = read_text(root / "proc/meminfo") or ""
    found = {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return (found["MemAvailable"], found["MemTotal"]) if {"MemAvailable", "MemTotal"} <= found.keys() else None


def cpu_features(root: Path = ROOT) -> list[str]:
    """Of the instruction sets that decide llama.cpp's speed, those this CPU has."""
    text = read_text(root / "proc/cpuinfo") or ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "asimddp", "asimdhp", "fphp", "i8mm", "sve")
    return [name for name in known if name in flags]


def read_text(path: Path) -> str | None:
    """A small file's text without surrounding blanks; None where it is absent, unreadable or empty."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip().strip("\0") or None
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """A file that holds one whole number; None where it does not."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def _model(root: Path) -> str:
    if board := read_text(root / "proc/device-tree/model"):
        return board
    found = re.search(r"^model name\s*:\s*(.*)$", read_text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()
