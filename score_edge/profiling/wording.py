"""How the figures of a profile are written, on a terminal and on a page."""

from collections.abc import Iterator

from score_edge.profiling.report import EncoderSteps, Report

NOT_AVAILABLE = "not available"


def about(report: Report) -> Iterator[str]:
    """Power, temperatures and everything that decides whether two profiles compare, as lines of text."""
    sensors, environment, board = report.sensors, report.environment, report.environment.board
    if report.encoder is not None:
        yield encoder_steps(report.encoder)
    if sensors.meter is None:
        yield f"energy: {NOT_AVAILABLE}, no power sensor answers here"
    else:
        frame = NOT_AVAILABLE if sensors.joules_per_frame is None else f"{sensors.joules_per_frame:.3f} J per frame"
        rails = ", ".join(f"{rail} {watts:.2f} W" for rail, watts in sensors.rails.items())
        yield f"energy by {sensors.meter}: {frame}{f'; {rails}' if rails else ''}"
    heat = ", ".join(f"{zone} {celsius:.0f} °C" for zone, celsius in sensors.celsius.items())
    counted = ", ".join(f"{guard}: {count}" for guard, count in sensors.throttled.items())
    yield f"hottest: {heat or NOT_AVAILABLE}; throttling events: {counted or NOT_AVAILABLE}"
    if sensors.device_bytes is not None:
        yield f"GPU memory: {size(sensors.device_bytes)} at most"
    yield f"warm-up: {', '.join(f'{name} {duration(seconds)}' for name, seconds in report.warm_up.items())}"
    settings = {
        "cpus": board.cpus,
        "L4T": board.l4t,
        "JetPack": board.jetpack,
        "power mode": board.power_mode,
        "governor": board.governor,
        "CPU MHz": "/".join(map(str, board.cpu_mhz)),
        "GPU MHz": "/".join(map(str, board.gpu_mhz)),
    }
    known = ", ".join(f"{name} {value}" for name, value in settings.items() if value)
    yield f"{board.model}, {board.machine}, {known}"
    yield ", ".join(f"{part}: {name}" for part, name in environment.providers.items())
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    commit = f" at {environment.git_commit[:12]}" if environment.git_commit else ""
    yield f"score-edge {environment.score_edge}{commit}, Python {environment.python}, {versions}"
    yield ", ".join(f"{name} {value}" for name, value in environment.model.items())


def encoder_steps(steps: EncoderSteps) -> str:
    """What the encoder did of the clip."""
    parts = [f"encoder: {steps.encoded:.0%} of the cells encoded"]
    if steps.whole_seconds is not None:
        parts.append(f"{_steps(steps.whole)} whole, {duration(steps.whole_seconds)} each")
    if steps.typical is not None and steps.typical_seconds is not None:
        parts.append(f"in the others {steps.typical:g} of {steps.cells} cells, {duration(steps.typical_seconds)}")
    if steps.unchanged:
        parts.append(f"{_steps(steps.unchanged)} without a change")
    if steps.cache_bytes is not None:
        parts.append(f"{size(steps.cache_bytes)} of keys and values per source")
    return "; ".join(parts)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def size(number: int | None) -> str:
    """Bytes with a unit that suits them; not available is said."""
    if number is None:
        return NOT_AVAILABLE
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1024:.0f} KiB"
