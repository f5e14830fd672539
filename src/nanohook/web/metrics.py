"""
Figures for Prometheus; one registry a service, so that two in one process do not meet.

Everything is counted by the event loop's thread alone, so plain numbers do: the library's own counters take a
lock each time, three for every callback. They are put in its form when somebody asks.
"""

import bisect
import collections
from collections.abc import Iterator, Mapping
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from nanohook import logs

_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Times:
    """How often something took how long."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS_S) + 1)
        """By bucket, the last for what took longer than all of them."""
        self.total_s = 0.0


class Metrics(Collector):
    """Everything that is counted."""

    def __init__(self) -> None:
        self._requests: collections.Counter[tuple[str, str, int]] = collections.Counter()
        self._times: collections.defaultdict[str, _Times] = collections.defaultdict(_Times)
        self._deliveries: collections.Counter[str] = collections.Counter()
        self.rate_checks: Mapping[tuple[str, str], int] = {}
        """By route and outcome; those who check count."""
        self.deliveries_waiting: Mapping[str, int] = {}
        """By effect: those that somebody may have to look at; the database counts."""
        self.background_restarts: Mapping[str, int] = {}
        """By task; its supervisor counts."""
        self.sweep_failures: Mapping[str, int] = {}
        """By what could not be treated; the sweeper counts."""
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.streams = Gauge("nanohook_streams_open", "Open streams.", registry=self.registry)
        self.inbox = Gauge("nanohook_inbox_units", "Writes that wait for the writer.", registry=self.registry)

    def request(self, *, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; *seconds* is ``None`` for a stream."""
        self._requests[method, route, status] += 1
        if seconds is not None:
            times = self._times[route]
            times.counts[bisect.bisect_left(_BUCKETS_S, seconds)] += 1
            times.total_s += seconds

    def delivery(self, verdict: str) -> None:
        """Count a callback: ``accepted``, ``duplicate``, ``rejected``, or ``refused`` for want of room."""
        self._deliveries[verdict] += 1

    def collect(self) -> Iterator[Metric]:
        """Give the figures in the library's form."""
        requests = CounterMetricFamily(
            "nanohook_http_requests", "Requests answered.", labels=("method", "route", "status")
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric((method, route, str(status)), count)
        yield requests
        seconds = HistogramMetricFamily(
            "nanohook_http_request_seconds",
            "Time to the end of the answer; streams are left out.",
            labels=("route",),
        )
        for route, times in self._times.items():
            seconds.add_metric((route,), _cumulated(times.counts), times.total_s)
        yield seconds
        deliveries = CounterMetricFamily("nanohook_deliveries", "Callbacks by verdict.", labels=("verdict",))
        for verdict, count in self._deliveries.items():
            deliveries.add_metric((verdict,), count)
        yield deliveries
        waiting = GaugeMetricFamily(
            "nanohook_deliveries_waiting", "Callbacks kept that are not applied yet, or dead.", labels=("effect",)
        )
        for effect, count in self.deliveries_waiting.items():
            waiting.add_metric((effect,), count)
        yield waiting
        checks = CounterMetricFamily(
            "nanohook_rate_checks", "Requests held against a limit of rate.", labels=("route", "outcome")
        )
        for line, count in self.rate_checks.items():
            checks.add_metric(line, count)
        yield checks
        restarts = CounterMetricFamily(
            "nanohook_background_restarts", "Background tasks started anew after a crash.", labels=("task",)
        )
        for task, count in self.background_restarts.items():
            restarts.add_metric((task,), count)
        yield restarts
        failures = CounterMetricFamily(
            "nanohook_sweep_failures",
            "What housekeeping could not treat and left for its next round.",
            labels=("kind",),
        )
        for kind, count in self.sweep_failures.items():
            failures.add_metric((kind,), count)
        yield failures
        yield CounterMetricFamily(
            "nanohook_log_lines_dropped",
            "Lines of the log that nobody read in time; of this process.",
            value=logs.lines_dropped(),
        )

    def text(self) -> bytes:
        """Write every figure in the text format of Prometheus."""
        return prometheus_client.generate_latest(self.registry)


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    """Each bucket counts what took as long or less, as Prometheus has it."""
    bounds = [*map(str, _BUCKETS_S), "+Inf"]
    found, so_far = [], 0
    for bound, count in zip(bounds, counts, strict=True):
        so_far += count
        found.append((bound, float(so_far)))
    return found
