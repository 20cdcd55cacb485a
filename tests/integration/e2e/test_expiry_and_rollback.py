"""Policies that were right once: past their expiry they deny, and older ones are not believed again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from akpolicy.client.publishing_types import PublishTerms
from tests.integration.e2e.world import ORG, decided_by, permit
from tests.simulators.waiting import wait_until

if TYPE_CHECKING:
    from tests.integration.e2e.world import World

SCOPE = f"org/{ORG}"


@pytest.mark.slow
def test_an_expired_bundle_denies_until_somebody_publishes_again(enforcing: World) -> None:
    policies = enforcing.directory / "short.cedar"
    policies.write_text(permit("short"), encoding="utf-8")
    done = enforcing.cli("policy", "publish", policies, "--org", ORG, "--lifetime", "5s")
    assert done.returncode == 0, done.stderr
    enforcing.wait_decided_by("short")

    expired = enforcing.wait_decided_by("BUNDLE_EXPIRED")
    assert not expired.allowed
    assert (expired.bundles[0].version, expired.source.value) == (2, "live")
    sidecar = enforcing.sidecars["host-1"]
    status, ready = sidecar.readiness()
    assert (status, ready["reason"]) == (503, "bundle_expired")
    assert "published again" in ready["message"]

    # Nor does a restart revive it.
    sidecar.kill()
    enforcing.start_sidecar()
    assert decided_by(enforcing.ask()) == "BUNDLE_EXPIRED"

    enforcing.publish(permit("renewed"))
    assert enforcing.wait_decided_by("renewed").bundles[0].version == 3
    assert enforcing.sidecars["host-1"].readiness()[0] == 200


@pytest.mark.slow
def test_a_server_restored_from_an_older_backup_cannot_take_hosts_back(enforcing: World) -> None:
    assert enforcing.server is not None
    data, backup = enforcing.directory / "server" / "data", enforcing.directory / "backup"
    enforcing.publish(permit("second"))
    enforcing.wait_decided_by("second")
    enforcing.server.stop()
    shutil.copytree(data, backup)
    enforcing.start_server()
    for number in (3, 4):
        enforcing.publish(permit(f"version-{number}"))
    before = enforcing.wait_decided_by("version-4")
    state = enforcing.state()

    enforcing.server.stop()
    shutil.rmtree(data)
    backup.rename(data)
    server = enforcing.start_server()
    assert [revision.version for revision in enforcing.history()] == [2, 1]

    sidecar = enforcing.sidecars["host-1"]
    said = sidecar.wait_for_record("update refused", code="RollbackDetected")
    assert said["subject"] == SCOPE
    wait_until(lambda: server.metric("akpolicy_server_nacks_total", code="RollbackDetected") >= 1)
    after = enforcing.ask()
    assert (decided_by(after), after.bundles) == ("version-4", before.bundles)
    assert enforcing.state() == state

    # The same number with another content is no better, and once the server is ahead again hosts follow it.
    enforcing.publish(permit("another-third"))
    enforcing.publish(permit("another-fourth"))
    sidecar.wait_for_record("update refused", code="Equivocation")
    assert enforcing.ask().bundles == before.bundles
    enforcing.publish(permit("fifth"), terms=PublishTerms(expected_version=4))
    assert enforcing.wait_decided_by("fifth").bundles[0].version == 5
