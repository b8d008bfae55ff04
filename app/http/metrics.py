"""Metrics for Prometheus: this process's requests, and the store's durable counts, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from collegium.jobs.record import QUEUES, QueueMetrics
from collegium.jobs.states import ACTIVE
from collegium.versions import software_version

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class RequestMetrics:
    """One process's own counters; ``render`` adds the store's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "collegium_http_requests", "Requests answered", ("method", "endpoint", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "collegium_http_request_seconds",
            "Seconds until the headers were sent",
            ("method", "endpoint"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("collegium_event_streams", "Open event streams", registry=self.registry)
        self.publish_failures = Counter(
            "collegium_publish_failures", "Messages the broker did not take", registry=self.registry
        )
        info = Gauge("collegium_info", "Always 1; the version is a label", ("version",), registry=self.registry)
        info.labels(software_version()).set(1)

    def observe(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
        self._requests.labels(known, endpoint, str(status)).inc()
        self._seconds.labels(known, endpoint).observe(seconds)

    def render(self, stored: QueueMetrics) -> bytes:
        """Everything in Prometheus' text format."""
        snapshot = CollectorRegistry()
        snapshot.register(_Stored(stored))
        return generate_latest(self.registry) + generate_latest(snapshot)


class _Stored:
    """The store's metrics as a Prometheus collector."""

    def __init__(self, stored: QueueMetrics) -> None:
        self._stored = stored

    def collect(self) -> Iterator[Metric]:
        """Gauges for the present, counters for what only grows."""
        depth = GaugeMetricFamily("collegium_jobs", "Jobs not yet ended", labels=("queue", "status"))
        oldest = GaugeMetricFamily(
            "collegium_oldest_queued_seconds", "How long the first in line has waited", labels=("queue",)
        )
        for queue in QUEUES:
            for status in ACTIVE:
                depth.add_metric((queue, status), self._stored.depth.get((queue, status), 0))
            oldest.add_metric((queue,), self._stored.oldest_queued_seconds.get(queue, 0.0))
        yield depth
        yield oldest
        attempts = CounterMetricFamily("collegium_attempts", "Attempts by outcome", labels=("outcome",))
        for name, count in sorted(self._stored.counters.items()):
            group, _, outcome = name.partition(".")
            if group == "attempts":
                attempts.add_metric((outcome,), count)
        yield attempts
        for name, text in (
            ("lease_expiries", "Leases that ran out"),
            ("fenced_writes", "Writes of superseded attempts that were refused"),
        ):
            yield CounterMetricFamily(f"collegium_{name}", text, value=self._stored.counters.get(name, 0))
