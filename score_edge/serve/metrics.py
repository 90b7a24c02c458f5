"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from score_edge.serve.engine import Reply

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("score_edge_requests", "Chat requests by HTTP status.", ["status"], registry=registry)
        self.inside = Gauge("score_edge_queue", "Chat requests that wait or are answered.", registry=registry)
        self._ttft = Histogram("score_edge_ttft_seconds", "Up to the first words.", buckets=_SECONDS, registry=registry)
        self._whole = Histogram("score_edge_answer_seconds", "Of an answer.", buckets=_SECONDS, registry=registry)
        self._tokens = Counter("score_edge_tokens", "Tokens of requests by kind.", ["kind"], registry=registry)
        self._stages = Counter("score_edge_stage_seconds", "Time by stage.", ["stage"], registry=registry)

    def count(self, reply: Reply) -> None:
        """An answer was given."""
        self._ttft.observe(reply.ttft_s)
        self._whole.observe(sum(reply.seconds.values()))
        fresh = not reply.cached_tokens
        for kind, tokens in (
            ("prompt", reply.prompt_tokens),
            ("cached", reply.cached_tokens),
            ("generated", reply.ended.tokens),
            ("visual", reply.total if fresh else 0),
            ("visual_kept", reply.kept if fresh else 0),
        ):
            self._tokens.labels(kind).inc(tokens)
        for stage, seconds in reply.seconds.items():
            self._stages.labels(stage).inc(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
