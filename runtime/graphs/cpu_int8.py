"""Whether this CPU computes an encoder right that was quantised for TensorRT."""

import re
from collections.abc import Iterable
from pathlib import Path

from score_edge.bundle.int8 import Int8

OVERFLOWS = "the encoder was quantised for TensorRT; this CPU, x86 without VNNI, overflows on it: tokens are wrong"
REMEDY = "score-edge calibrate FP32_BUNDLE --video FOOTAGE -o NEW --form int8-cpu"


def overflows(int8: Int8 | None, flags: Iterable[str] | None = None) -> bool:
    """Whether the fast integer kernels overflow: signed activations on x86 without VNNI saturate at 16 bits.

    Args:
        int8: how the encoder was quantised; None where it was not.
        flags: of the CPU; None reads this machine's.
    """
    known = set(cpu_flags() if flags is None else flags)
    return int8 is not None and int8.form == "int8" and "avx2" in known and not any("vnni" in flag for flag in known)


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Of the first CPU, as Linux lists them; empty where it does not."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return set()
    return set(found.group(1).split()) if found else set()
