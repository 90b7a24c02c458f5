"""`score-edge doctor` as a function: every check, in the order people read them."""

from collections.abc import Callable, Iterator
from typing import Any

from score_edge.doctor import machine, opencv, software
from score_edge.doctor.bundle import check_bundle
from score_edge.doctor.check import Check, healthy, report_block

_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    machine.check_python,
    machine.check_board,
    machine.check_space,
    machine.check_gpu,
    software.check_tensorrt,
    software.check_onnxruntime,
    software.check_llama,
    software.check_tensorrt_llm,
    opencv.check_opencv,
    machine.check_cameras,
    machine.check_sensors,
)


def examine(bundle: str | None = None) -> Iterator[Check]:
    """Look at this machine, and at a bundle if one is named; findings come one by one.

    Example:
        >>> [check.area for check in examine()][:2]  # doctest: +SKIP
        ['Python', 'score-edge']
    """
    for check in _CHECKS:
        yield from check()
    if bundle is not None:
        yield from check_bundle(bundle)


def to_json(checks: list[Check]) -> dict[str, Any]:
    """Findings as plain values."""
    rows = [{"area": c.area, "status": c.status, "finding": c.finding, "fix": c.fix} for c in checks]
    return {"healthy": healthy(checks), "checks": rows, "report": report_block(checks)}
