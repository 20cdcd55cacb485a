"""Metrics: the names are valid to Prometheus, and no label can be grown from outside."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from akpolicy import __version__, metrics_names
from akpolicy.metrics_names import MetricName
from akpolicy_server.metrics import ServerMetrics
from akpolicy_sidecar.metrics import SidecarMetrics

if TYPE_CHECKING:
    from akpolicy.metrics_registry import MetricsRegistry

ALL_NAMES = [value for value in vars(metrics_names).values() if isinstance(value, MetricName)]
PROGRAMS = [(ServerMetrics, "akpolicy_server_"), (SidecarMetrics, "akpolicy_sidecar_")]


def exercised(program: type[MetricsRegistry]) -> MetricsRegistry:
    """Return a program's metrics with a sample in each."""
    metrics = program()
    for metric in vars(metrics).values():
        if hasattr(metric, "labels"):
            child = metric.labels(*("x" for _ in metric._labelnames)) if metric._labelnames else metric
            (child.observe if hasattr(child, "observe") else child.inc)(1)
    return metrics


@pytest.mark.needs_program("promtool")
@pytest.mark.parametrize(("program", "prefix"), PROGRAMS)
def test_promtool_finds_nothing_to_object_to(program: type[MetricsRegistry], prefix: str) -> None:
    _, text = exercised(program).expose()
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")


@pytest.mark.parametrize(("program", "prefix"), PROGRAMS)
def test_a_program_shows_exactly_its_own_metrics_and_those_of_its_process(
    program: type[MetricsRegistry], prefix: str
) -> None:
    content_type, text = exercised(program).expose()
    assert content_type.startswith("text/plain")
    shown = {family.name for family in text_string_to_metric_families(text.decode())}
    own = {name for name in shown if name.startswith(prefix)}
    assert own - {name for name in own if name.endswith("_created")} == {
        metric.name.removesuffix("_total") for metric in ALL_NAMES if metric.name.startswith(prefix)
    }
    assert all(name.startswith("process_") for name in shown - own)


def test_every_name_belongs_to_a_program() -> None:
    assert ALL_NAMES
    assert all(re.fullmatch(r"akpolicy_(server|sidecar)_[a-z_]+", metric.name) for metric in ALL_NAMES)


def test_no_label_is_one_that_a_caller_fills() -> None:
    labels = {label for metric in ALL_NAMES for label in metric.labels}
    known = {
        "code",
        "effect",
        "lag",
        "method",
        "mode",
        "outcome",
        "reason",
        "scope",
        "source",
        "state",
        "status",
        "use",
    }
    known |= {"version"}
    assert labels <= known


def test_two_registries_do_not_disturb_each_other() -> None:
    first, second = SidecarMetrics(), SidecarMetrics()
    first.reconnects.inc()
    assert first.value(metrics_names.SIDECAR_RECONNECTS) == 1
    assert second.value(metrics_names.SIDECAR_RECONNECTS) == 0


def test_known_outcomes_start_at_zero() -> None:
    assert b'akpolicy_sidecar_updates_total{outcome="refused"} 0.0' in SidecarMetrics().expose()[1]
    assert b'akpolicy_server_publishes_total{outcome="refused"} 0.0' in ServerMetrics().expose()[1]


def test_the_running_version_is_shown() -> None:
    assert SidecarMetrics().value(metrics_names.SIDECAR_BUILD_INFO, version=__version__) == 1
    assert ServerMetrics().value(metrics_names.SERVER_BUILD_INFO, version=__version__) == 1


def test_a_made_up_refusal_code_does_not_become_a_label() -> None:
    metrics = ServerMetrics()
    for code in ("RollbackDetected", "made-up-1", "made-up-2", ""):
        metrics.count_nack(code)
    assert metrics.value(metrics_names.SERVER_NACKS, code="RollbackDetected") == 1
    assert metrics.value(metrics_names.SERVER_NACKS, code=metrics_names.OTHER) == 3
    assert b"made-up" not in metrics.expose()[1]
