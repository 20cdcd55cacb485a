"""What people and Prometheus are told: everything is counted, and a line comes when something changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import LogCapture

from akpolicy import metrics_names as names
from akpolicy.bundle import OfflineMode
from akpolicy.decision import PolicySource, Reason
from akpolicy.errors import BundleExpired, CacheWriteFailed, HeartbeatStale, PolicyStale, RollbackDetected
from akpolicy.errors import SignatureInvalid as Bad
from akpolicy_sidecar import report as module
from akpolicy_sidecar.metrics import SidecarMetrics
from akpolicy_sidecar.report import Reporter
from akpolicy_sidecar.status import Standing
from tests.simulators.office import keep_alive

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the lines that the module logs, as they come."""
    capture = LogCapture()
    monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[capture]))
    return capture.entries


@pytest.fixture
def metrics() -> SidecarMetrics:
    return SidecarMetrics()


@pytest.fixture
def report(metrics: SidecarMetrics) -> Reporter:
    return Reporter(metrics)


def levels(lines: list[Any]) -> list[str]:
    return [line["log_level"] for line in lines]


# --- updates ----------------------------------------------------------------------------------------------------------


def test_every_update_is_counted_by_its_outcome(report: Reporter, metrics: SidecarMetrics) -> None:
    report.applied("global", 1)
    for _ in range(2):
        report.unchanged("global")
    for _ in range(3):
        report.refused("global", Bad("no"))

    outcomes = {o: metrics.value(names.SIDECAR_UPDATES, outcome=o) for o in ("applied", "unchanged", "refused")}
    assert outcomes == {"applied": 1, "unchanged": 2, "refused": 3}
    assert metrics.value(names.SIDECAR_UPDATE_REFUSALS, code="SignatureInvalid") == 3


def test_the_same_refusal_is_one_line_however_often_it_comes(report: Reporter, lines: list[Any]) -> None:
    for _ in range(5):
        report.refused("global", Bad("no"))
    report.refused("org/acme", Bad("no"))
    report.refused("global", RollbackDetected("old"))

    assert [(line["subject"], line["code"]) for line in lines] == [
        ("global", "SignatureInvalid"),
        ("org/acme", "SignatureInvalid"),
        ("global", "RollbackDetected"),
    ]
    assert levels(lines) == ["error"] * 3


def test_a_text_that_the_peer_chooses_makes_no_new_line(report: Reporter, lines: list[Any]) -> None:
    for number in range(5):
        report.refused("global", Bad(f"no {number}"))

    assert len(lines) == 1


def test_what_was_refused_is_shown_until_it_is_made_good(report: Reporter) -> None:
    report.refused("global", Bad("no"))
    report.refused("heartbeat", HeartbeatStale("old"))
    report.refused("root", Bad("no"))
    assert report.trouble["refused"] == {
        "global": "SignatureInvalid",
        "heartbeat": "HeartbeatStale",
        "root": "SignatureInvalid",
    }

    report.applied("global", 2)
    report.heartbeat()
    # The server went back to what is in force.
    report.unchanged("root")

    assert report.trouble["refused"] == {}


def test_what_is_refused_after_it_was_made_good_is_a_line_again(report: Reporter, lines: list[Any]) -> None:
    for _ in range(2):
        report.refused("heartbeat", HeartbeatStale("old"))
        report.heartbeat()

    assert len(lines) == 2


def test_a_refusal_ends_with_what_the_session_hears(host: HostSimulator) -> None:
    host.update(PERMIT)
    good = host.office.current["global"]
    host.hear(host.office.heartbeat())
    host.office.publish(PERMIT, signed_by=[host.org.rollback_signer])
    host.hear(*host.office.bundle())
    assert host.report.trouble["refused"] == {"heartbeat": "HeartbeatReplay", "global": "KeyNotAuthorised"}

    # What was refused is withdrawn: the server holds what is enforced here.
    host.office.hold("global", good.envelope, good.blob)
    host.hear(*host.office.bundle(), host.office.heartbeat(), keep_alive())

    assert host.report.trouble["refused"] == {}


def test_what_a_root_drops_is_counted_and_a_line(report: Reporter, metrics: SidecarMetrics, lines: list[Any]) -> None:
    report.dropped("org/acme", Bad("no"))

    assert metrics.value(names.SIDECAR_UPDATE_REFUSALS, code="SignatureInvalid") == 1
    assert lines[0]["event"] == "enforced policy was dropped; everything is denied"


def test_heartbeats_are_counted_and_make_no_line(report: Reporter, metrics: SidecarMetrics, lines: list[Any]) -> None:
    for _ in range(3):
        report.heartbeat()

    assert metrics.value(names.SIDECAR_HEARTBEATS) == 3
    assert lines == []


# --- how policy stands ------------------------------------------------------------------------------------------------


def standing(denial: Reason | None = None, error: Exception | None = None) -> Standing:
    source = PolicySource.NONE if denial else PolicySource.CACHE
    return Standing(denial, "denied: so" if denial else "", OfflineMode.CACHED_WITH_EXPIRY, source, 5, error=error)  # type: ignore[arg-type]  # an `AkpolicyError` where a test gives one


def test_each_change_of_the_denial_is_a_line(report: Reporter, lines: list[Any]) -> None:
    expired, stale = (Reason.BUNDLE_EXPIRED, BundleExpired("x")), (Reason.POLICY_STALE, PolicyStale("x"))
    for denial, error in ((None, None), expired, expired, stale, (None, None), (None, None)):
        report.standing(standing(denial, error))

    assert [line.get("reason", "") for line in lines] == ["", "bundle_expired", "policy_stale", ""]
    assert levels(lines) == ["info", "error", "error", "info"]


def test_what_is_wrong_with_the_host_is_counted_once_for_each_change(
    report: Reporter, metrics: SidecarMetrics, lines: list[Any]
) -> None:
    stale = HeartbeatStale("old")
    for error in (None, stale, HeartbeatStale("older"), None, stale):
        report.standing(standing(error=error))

    assert metrics.value(names.SIDECAR_POLICY_TROUBLES, code="HeartbeatStale") == 2
    assert [line["event"] for line in lines] == [
        "requests are decided by policy",
        *["policy is not fresh; decisions go on"] * 2,
    ]


# --- the stream -------------------------------------------------------------------------------------------------------


def test_a_server_that_stays_away_is_one_line(report: Reporter, metrics: SidecarMetrics, lines: list[Any]) -> None:
    report.connected()
    for _ in range(3):
        report.lost("UNAVAILABLE", "gone")
        report.retrying()
    report.connected()

    assert levels(lines) == ["info", "warning", "info"]
    assert metrics.value(names.SIDECAR_RECONNECTS) == 3
    assert metrics.value(names.SIDECAR_CONNECTED) == 1
    assert report.trouble["connection"] == ""


def test_a_refused_api_key_is_an_error_and_another_trouble_a_new_line(
    report: Reporter, metrics: SidecarMetrics, lines: list[Any]
) -> None:
    report.lost("UNAUTHENTICATED", "no such key")
    report.lost("UNAVAILABLE", "gone")

    assert levels(lines) == ["error", "warning"]
    assert metrics.value(names.SIDECAR_CONNECTED) == 0
    assert report.trouble["connection"] == "UNAVAILABLE"


# --- the state directory ----------------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_counted_each_time_and_one_line_until_it_works(
    report: Reporter, metrics: SidecarMetrics, lines: list[Any]
) -> None:
    report.cache_works()
    for _ in range(3):
        report.cache_failed(CacheWriteFailed("full"))
    report.cache_works()
    report.cache_works()

    assert metrics.value(names.SIDECAR_CACHE_ERRORS, code="CacheWriteFailed") == 3
    assert levels(lines) == ["error", "info"]


def test_what_cannot_be_loaded_is_counted_and_a_line(
    report: Reporter, metrics: SidecarMetrics, lines: list[Any]
) -> None:
    report.not_loaded("global", CacheWriteFailed("x"))

    assert metrics.value(names.SIDECAR_CACHE_ERRORS, code="CacheWriteFailed") == 1
    assert (lines[0]["subject"], lines[0]["code"]) == ("global", "CacheWriteFailed")
