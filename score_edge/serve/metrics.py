"""What Prometheus reads at /metrics."""

import threading
import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from score_edge.profiling.meters import Meter
from score_edge.runtime.live.events import Event, StepSeen
from score_edge.serve.engine import GenerationResult

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server.

    Args:
        meters: of power, open; read when somebody looks.
    """

    def __init__(self, meters: Sequence[Meter] = ()) -> None:
        self._registry = registry = CollectorRegistry()
        self._meters = [(meter, time.monotonic(), meter.read().joules) for meter in meters]
        self._watts = Gauge("score_edge_watts", "Power.", ["meter", "covers"], registry=registry)
        self.requests = Counter("score_edge_requests", "Chat requests by HTTP status.", ["status"], registry=registry)
        self.inside = Gauge("score_edge_queue", "Chat requests that wait or are answered.", registry=registry)
        self._ttft = Histogram("score_edge_ttft_seconds", "Up to the first words.", buckets=_SECONDS, registry=registry)
        self._whole = Histogram("score_edge_answer_seconds", "Of an answer.", buckets=_SECONDS, registry=registry)
        self._tokens = Counter("score_edge_tokens", "Tokens of requests by kind.", ["kind"], registry=registry)
        self._stages = Counter("score_edge_stage_seconds", "Time by stage.", ["stage"], registry=registry)
        each = ["camera"]
        self._steps = Counter("score_edge_camera_steps", "Steps that were remembered.", each, registry=registry)
        self._dropped = Counter("score_edge_camera_dropped_frames", "Not taken in time.", each, registry=registry)
        self._cells = Counter("score_edge_camera_tokens", "All, kept, encoded.", [*each, "kind"], registry=registry)
        self._camera_stages = Counter(
            "score_edge_camera_stage_seconds", "Time by stage.", [*each, "stage"], registry=registry
        )
        self._dropped_before: dict[str, int] = {}
        self._lock = threading.Lock()

    def on_event(self, event: Event) -> None:
        """Something happened to a camera."""
        if not isinstance(event, StepSeen):
            return
        name, cells = event.camera, event.keep.size
        self._steps.labels(name).inc()
        self._dropped.labels(name).inc(event.dropped - self._dropped_before.get(name, 0))
        self._dropped_before[name] = event.dropped
        for kind, count in (("all", cells), ("kept", int(event.keep.sum())), ("encoded", int(event.encoded.sum()))):
            self._cells.labels(name, kind).inc(count)
        for stage, seconds in event.seconds.items():
            self._camera_stages.labels(name, stage).inc(seconds)

    def count(self, result: GenerationResult) -> None:
        """An answer was given."""
        self._ttft.observe(result.ttft_s)
        self._whole.observe(sum(result.seconds.values()))
        fresh = not result.cached_tokens
        for kind, tokens in (
            ("prompt", result.prompt_tokens),
            ("cached", result.cached_tokens),
            ("generated", result.ended.tokens),
            ("visual", result.total if fresh else 0),
            ("visual_kept", result.kept if fresh else 0),
        ):
            self._tokens.labels(kind).inc(tokens)
        for stage, seconds in result.seconds.items():
            self._stages.labels(stage).inc(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        with self._lock:
            self._meters = [self._measure(*known) for known in self._meters]
        return bytes(generate_latest(self._registry))

    def _measure(self, meter: Meter, last: float, joules: float | None) -> tuple[Meter, float, float | None]:
        """Power now, or on average since the last look where a meter counts energy."""
        reading, now = meter.read(), time.monotonic()
        watts = reading.watts
        if reading.joules is not None and joules is not None and now > last:
            watts = (reading.joules - joules) / (now - last)
        if watts is not None:
            self._watts.labels(meter.name, meter.covers).set(watts)
        return meter, now, reading.joules
