"""Builds metrics from their names, on a registry of the program's own.

Only the two programs import this: the metrics library comes with their extras, not with the shared library. A registry
of its own keeps what other code in the process registers out of `/metrics`, and lets tests build as many as they like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from akpolicy.metrics_names import MetricName


class MetricsRegistry:
    """A program's metrics, together with those of its process (memory, CPU, open files)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def counter(self, metric: MetricName) -> Counter:
        """Build a counter."""
        return Counter(metric.name, metric.help, metric.labels, registry=self._registry)

    def gauge(self, metric: MetricName) -> Gauge:
        """Build a gauge."""
        return Gauge(metric.name, metric.help, metric.labels, registry=self._registry)

    def histogram(self, metric: MetricName) -> Histogram:
        """Build a histogram with the metric's buckets."""
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry)

    def expose(self) -> tuple[str, bytes]:
        """Return the content type and the text of `/metrics`."""
        return CONTENT_TYPE_LATEST, generate_latest(self._registry)

    def value(self, metric: MetricName, **labels: str) -> float:
        """Return the current value of a counter or gauge; 0 where nothing was counted yet."""
        return self._registry.get_sample_value(metric.name, labels) or 0.0
