"""What the sidecar says of itself, as /readyz and /metrics have it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from akpolicy import metrics_names as names
from akpolicy.bundle import OfflineMode
from akpolicy_sidecar.audit import AuditLog
from akpolicy_sidecar.health import Health
from tests.simulators.org import DAY, HEARTBEAT_LIFETIME_S

if TYPE_CHECKING:
    from akpolicy.metrics_names import MetricName
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}


def health_of(host: HostSimulator) -> Health:
    def count() -> None:
        """Nothing is written here."""

    return Health(
        viewer=host.viewer,
        updater=host.updater,
        report=host.report,
        audit=AuditLog("off", written=count, failed=count),
        metrics=host.metrics,
    )


def value(host: HostSimulator, metric: MetricName, **labels: str) -> float:
    """Return a gauge as a scrape sees it."""
    health_of(host).expose()
    return host.metrics.value(metric, **labels)


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes."""
    return host.update(PERMIT).update(PERMIT, scope="org/acme")


def test_a_new_host_is_not_ready_and_says_why(new_host: HostSimulator) -> None:
    ready, details = health_of(new_host).readiness()

    assert not ready
    assert (details["reason"], details["source"], details["fresh"]) == ("no_policy", "none", False)
    assert (details["scopes"], details["confirmed_at"], details["root_version"]) == ({}, {}, 0)
    assert details["policy_age_ms"] == -1


def test_a_host_with_fresh_policy_is_ready(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(7)

    ready, details = health_of(enforcing).readiness()

    issued_at = int(enforcing.clock.now()) - 7
    assert ready
    assert details == {
        "mode": "cached_with_expiry",
        "source": "live",
        "fresh": True,
        "policy_age_ms": 7000,
        "stalest": "global",
        "confirmed_at": {"global": issued_at, "org/acme": issued_at},
        "reason": "",
        "message": "",
        "trouble": "",
        "scopes": {"global": 1, "org/acme": 1},
        "scope_count": 2,
        "missing": [],
        "root_version": 1,
        "update_mode": "stream",
        "connection": "",
        "refused": {},
        "audit": "ok",
    }
    assert json.loads(json.dumps(details)) == details


def test_a_host_that_goes_on_by_stale_policy_is_ready_and_says_what_is_wrong(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S)

    ready, details = health_of(enforcing).readiness()

    assert ready
    assert (details["fresh"], details["trouble"], details["source"]) == (False, "HeartbeatStale", "cache")


def test_the_scope_that_ages_is_named(enforcing: HostSimulator) -> None:
    enforcing.office.publish(PERMIT, scope="org/acme", signed_by=[enforcing.org.rollback_signer])
    enforcing.clock.advance(100)
    enforcing.hear(*enforcing.office.bundle("org/acme")).beat()

    _, details = health_of(enforcing).readiness()

    assert (details["stalest"], details["policy_age_ms"]) == ("org/acme", 100_000)
    assert details["refused"] == {"org/acme": "KeyNotAuthorised"}


@pytest.mark.parametrize(
    ("seconds", "reason", "trouble"),
    [(-DAY, "clock_untrusted", "ClockRollback"), (DAY, "clock_untrusted", "ClockJump")],
)
def test_a_clock_that_is_not_believed_is_named(
    enforcing: HostSimulator, seconds: int, reason: str, trouble: str
) -> None:
    enforcing.clock.set_wall(enforcing.clock.now() + seconds)

    ready, details = health_of(enforcing).readiness()

    assert not ready
    assert (details["reason"], details["trouble"]) == (reason, trouble)


def test_a_scope_that_cannot_be_enforced_any_more_is_named(enforcing: HostSimulator) -> None:
    scope = enforcing.directory.state.scopes["org/acme"]
    (enforcing.place / "envelopes" / scope.envelope).unlink()

    ready, details = health_of(enforcing.restart()).readiness()

    assert not ready
    assert (details["missing"], details["reason"]) == (["org/acme"], "no_policy")


def test_looking_reports_a_change_once(enforcing: HostSimulator) -> None:
    health = health_of(enforcing)
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S)

    for _ in range(3):
        assert health.look().ready

    assert enforcing.metrics.value(names.SIDECAR_POLICY_TROUBLES, code="HeartbeatStale") == 1


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_gauges_of_a_new_host_say_that_there_is_nothing(new_host: HostSimulator) -> None:
    for metric in (
        names.SIDECAR_ROOT_VERSION,
        names.SIDECAR_ROOT_EXPIRY,
        names.SIDECAR_LAST_CONTACT,
        names.SIDECAR_HEARTBEAT_EXPIRY,
        names.SIDECAR_FRESH,
        names.SIDECAR_EVIDENCE,
    ):
        assert value(new_host, metric) == 0
    assert value(new_host, names.SIDECAR_POLICY_AGE) == math.inf


def test_gauges_show_what_is_enforced_and_how_fresh_it_is(enforcing: HostSimulator) -> None:
    issued_at = int(enforcing.clock.now())
    enforcing.clock.advance(7)

    assert value(enforcing, names.SIDECAR_LAST_CONTACT) == issued_at
    assert value(enforcing, names.SIDECAR_HEARTBEAT_EXPIRY) == issued_at + HEARTBEAT_LIFETIME_S
    assert value(enforcing, names.SIDECAR_FRESH) == 1
    assert value(enforcing, names.SIDECAR_POLICY_AGE) == 7
    assert value(enforcing, names.SIDECAR_BUNDLE_VERSION, scope="global") == 1
    assert value(enforcing, names.SIDECAR_BUNDLE_EXPIRY, scope="org/acme") == issued_at + 30 * DAY
    assert value(enforcing, names.SIDECAR_POLICIES, scope="org/acme") == 1
    assert value(enforcing, names.SIDECAR_ROOT_VERSION) == 1
    for mode in OfflineMode:
        expected = mode is OfflineMode.CACHED_WITH_EXPIRY
        assert value(enforcing, names.SIDECAR_OFFLINE_MODE, mode=mode.value) == expected


def test_gauges_follow_a_rotation(enforcing: HostSimulator) -> None:
    soon = int(enforcing.clock.now()) + 100
    enforcing.updater.apply_root(enforcing.office.rotate(expires_at=soon))

    assert value(enforcing, names.SIDECAR_ROOT_VERSION) == 2
    assert value(enforcing, names.SIDECAR_ROOT_EXPIRY) == soon
    assert value(enforcing, names.SIDECAR_BUNDLE_EXPIRY, scope="global") == soon


def test_policy_that_is_not_fresh_any_more_shows(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(HEARTBEAT_LIFETIME_S)

    assert value(enforcing, names.SIDECAR_FRESH) == 0


def test_a_scope_that_is_gone_is_no_longer_shown(enforcing: HostSimulator) -> None:
    health = health_of(enforcing)
    assert b'scope="org/acme"' in health.expose()[1]

    enforcing.take(enforcing.office.delete("org/acme"))

    assert b'scope="org/acme"' not in health.expose()[1]


def test_layers_of_members_are_counted_and_not_shown_one_by_one(enforcing: HostSimulator) -> None:
    for member in ("team/red", "team/blue", "user/alice"):
        enforcing.update(PERMIT, scope=f"org/acme/{member}")

    _, text = health_of(enforcing).expose()

    assert b"team/red" not in text
    assert value(enforcing, names.SIDECAR_MEMBER_LAYERS) == value(enforcing, names.SIDECAR_MEMBER_POLICIES) == 3
    first = min(layer.expires_at for layer in enforcing.snapshots.current.layers)
    assert value(enforcing, names.SIDECAR_MEMBER_LAYER_EXPIRY) == first
    assert health_of(enforcing).readiness()[1]["scope_count"] == 5


def test_a_stale_layer_of_a_member_is_trouble_and_the_host_stays_ready(enforcing: HostSimulator) -> None:
    enforcing.update(PERMIT, scope="org/acme/user/alice", expires_at=int(enforcing.clock.now()) + 10)
    enforcing.clock.advance(20)
    enforcing.beat()

    ready, details = health_of(enforcing).readiness()

    assert (ready, details["reason"], details["trouble"]) == (True, "", "BundleExpired")


def test_evidence_is_counted_until_somebody_moves_it_away(enforcing: HostSimulator) -> None:
    enforcing.clock.advance(1)
    enforcing.hear(enforcing.office.heartbeat(about=[]))
    assert value(enforcing, names.SIDECAR_EVIDENCE) == 2

    for path in (enforcing.place / "evidence").iterdir():
        path.unlink()
    (enforcing.place / "evidence").rmdir()

    assert value(enforcing, names.SIDECAR_EVIDENCE) == 0
