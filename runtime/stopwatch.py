"""How long each stage took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stopwatch:
    """Seconds per named stage, summed over calls."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside towards a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, began, time.perf_counter())

    def add(self, name: str, began: float, ended: float) -> None:
        """Count a stretch that is over, by `time.perf_counter()`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + ended - began
