"""What Prometheus may read of the server, at /metrics."""

from __future__ import annotations

from jepa_edge.contract import MissingExtraError

try:
    from prometheus_client import Counter, Gauge, Histogram
except ImportError as error:
    raise MissingExtraError("prometheus-client", "cloud") from error

MILLISECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

REQUESTS = Counter("jepa_edge_requests", "Inference requests by outcome", ["model", "code"])
SECONDS = Histogram(
    "jepa_edge_request_seconds", "From request to answer", ["model"], buckets=MILLISECONDS
)
SESSIONS = Gauge("jepa_edge_sessions", "Robots that are remembered")
BATCH = Histogram(
    "jepa_edge_batch_size", "Calls computed together", ["graph"], buckets=(1, 2, 4, 8, 16, 32)
)
ENGINE_SECONDS = Histogram(
    "jepa_edge_engine_seconds", "One computation of a graph", ["graph"], buckets=MILLISECONDS
)


def observe(graph: str, size: int, seconds: float) -> None:
    """Counts one computation of `size` calls."""
    BATCH.labels(graph=graph).observe(size)
    ENGINE_SECONDS.labels(graph=graph).observe(seconds)
