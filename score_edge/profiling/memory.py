"""How much memory this process has held at most, and that again from a given moment on."""

import re
import resource
import sys
from pathlib import Path

from score_edge.profiling.board import read_text

_SELF = Path("/proc/self")
_RESET_PEAK = "5"


def reset_peak() -> bool:
    """Start counting anew; False where the kernel does not allow it, and `peak_bytes` then covers the whole process."""
    try:
        (_SELF / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int:
    """The most resident memory since the process began, or since `reset_peak`."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", read_text(_SELF / "status") or "", re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
