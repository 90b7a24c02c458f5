"""What ran when: named stretches of time with the run they belong to, and the Chrome trace made of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from score_edge.runtime.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of time, by `time.perf_counter()`.

    Attributes:
        retention: that it belongs to; None for what all retentions of a run share.
        run: running number; -1 for the warm-up.
    """

    name: str
    began: float
    ended: float
    run: int
    retention: float | None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


@dataclass
class Spans(Stopwatch):
    """A stopwatch that keeps every stretch apart; give it to `Pipeline.encode` or use `stage` as it does."""

    spans: list[Span] = field(default_factory=list)
    run: int = -1
    retention: float | None = None

    def add(self, name: str, began: float, ended: float) -> None:
        """Note a stretch that is over, of this run and retention."""
        self.spans.append(Span(name, began, ended, self.run, self.retention))

    def of(self, name: str, run: int, retention: float | None) -> list[float]:
        """Seconds of every stretch of one name in one run, in order."""
        return [s.seconds for s in self.spans if (s.name, s.run, s.retention) == (name, run, retention)]


def chrome_trace(spans: Sequence[Span], power: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
    """The stretches, and power as a curve, in the format that chrome://tracing and ui.perfetto.dev open.

    Args:
        spans: of a whole profile.
        power: (time, watts).
    """
    start = min([span.began for span in spans] + [when for when, _ in power], default=0.0)
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "score-edge profile"}},
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": "stages"}},
    ]
    for span in spans:
        about = {"run": "warm-up" if span.run < 0 else span.run}
        if span.retention is not None:
            about["retention"] = span.retention  # type: ignore[assignment]
        began, lasted = (span.began - start) * 1e6, span.seconds * 1e6
        events.append(
            {
                "name": span.name,
                "ph": "X",
                "ts": began,
                "dur": lasted,
                "pid": 1,
                "tid": 1,
                "cat": "stage",
                "args": about,
            }
        )
    for when, watts in power:
        events.append({"name": "power", "ph": "C", "ts": (when - start) * 1e6, "pid": 1, "args": {"watts": watts}})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
