"""Figures for Prometheus; one registry a service, so that two in one process do not meet."""

from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Everything that is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "nanohook_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "nanohook_http_request_seconds",
            "Time to the end of the answer; streams are left out.",
            ("route",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.deliveries = Counter(
            "nanohook_deliveries_total", "Callbacks by verdict.", ("verdict",), registry=self.registry
        )
        self.streams = Gauge("nanohook_streams_open", "Open streams.", registry=self.registry)
        self.inbox = Gauge("nanohook_inbox_units", "Writes that wait for the writer.", registry=self.registry)
        # Finding a labelled child takes a lock and a tuple: kept, there are few.
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._second_children: dict[str, Histogram] = {}
        self._verdicts = {
            name: self.deliveries.labels(name) for name in ("accepted", "duplicate", "rejected", "refused")
        }

    def request(self, *, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; *seconds* is ``None`` for a stream."""
        key = (method, route, status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(method, route, str(status))
        child.inc()
        if seconds is None:
            return
        timer = self._second_children.get(route)
        if timer is None:
            timer = self._second_children[route] = self._seconds.labels(route)
        timer.observe(seconds)

    def delivery(self, verdict: str) -> None:
        """Count a callback: ``accepted``, ``duplicate``, ``rejected``, or ``refused`` for want of room."""
        self._verdicts[verdict].inc()

    def text(self) -> bytes:
        """Write every figure in the text format of Prometheus."""
        return prometheus_client.generate_latest(self.registry)
