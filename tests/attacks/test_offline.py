"""Attacks while the server is away (A-147 to A-154): no mode is more lenient than what was signed."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.decision import BundleVersion, PolicySource, Reason
from akpolicy.engine.decide import Effect
from akpolicy.errors import BundleExpired, KeyRevoked, PolicyStale
from akpolicy.signing import PrivateKeySigner
from akpolicy_sidecar.offline import OfflineRule
from akpolicy_sidecar.snapshot import Layer, Snapshot
from akpolicy_sidecar.status import stand
from tests.attacks.stage import FORBID, ORG, PERMIT, REGISTER, TEAM, Attack, Stage, roles_with, root_of
from tests.simulators.host import HostSimulator
from tests.simulators.org import DAY, delegation

if TYPE_CHECKING:
    from pathlib import Path

    from akpolicy_sidecar.status import Standing


def host_with(place: Path, local: OfflineRule, floor: dict[str, Any], policies: dict[str, str] | None = None) -> Stage:
    """Return a host with this configuration, whose layers have this signed floor."""
    stage = Stage(place)
    stage.host.close()
    stage.host = HostSimulator(place, org=stage.org, clock=stage.host.clock, local=local, office=stage.office)
    stage.office.publish(policies or PERMIT, offline=floor)
    stage.office.publish(FORBID, scope=ORG, offline=floor)
    stage.host.connect()
    return stage


def assert_stale(stage: Stage) -> Standing:
    """Assert that everything is denied because policy is too old, that this is counted and told."""
    counted, nacks = stage.host.counted("PolicyStale"), len(stage.host.nacks)
    standing = stage.host.standing()
    assert (standing.denial, type(standing.error)) == (Reason.POLICY_STALE, PolicyStale)
    assert stage.host.counted("PolicyStale") == counted + 1
    assert stage.host.nacks[nacks:] == ["PolicyStale"]
    assert stage.host.decide() is None
    assert stage.host.versions == {"global": 1, ORG: 1}
    return standing


CACHED = OfflineRule(OfflineMode.CACHED_WITH_EXPIRY, float(DAY))
DAY_FLOOR = {"mode": "cached_with_expiry", "max_age_s": DAY}


@REGISTER.single(147, "policy of 24 hours and a second is too old", PolicyStale)
def test_cached_policy_ends_with_its_day(tmp_path: Path, attack: Attack) -> None:
    stage = host_with(tmp_path / "s", CACHED, DAY_FLOOR)
    stage.host.links.lost()
    stage.host.clock.advance(DAY)
    assert stage.host.standing().denial is None
    stage.host.clock.advance(1)
    assert_stale(stage)


@REGISTER.single(148, "touching files and starting anew makes nothing younger", PolicyStale)
def test_a_restart_makes_nothing_younger(tmp_path: Path, attack: Attack) -> None:
    stage = host_with(tmp_path / "s", CACHED, DAY_FLOOR)
    stage.host.clock.advance(DAY + 1)
    stage.host.close()
    for path in (tmp_path / "s").rglob("*"):
        os.utime(path)
    stage.host = HostSimulator(tmp_path / "s", org=stage.org, clock=stage.host.clock, local=CACHED, office=stage.office)
    assert_stale(stage)


@REGISTER.single(149, "a host cannot be configured laxer than the signed floor", PolicyStale)
def test_the_signed_floor_holds(tmp_path: Path, attack: Attack) -> None:
    lax = OfflineRule(OfflineMode.CACHED_INDEFINITE, 0.0)
    stage = host_with(tmp_path / "s", lax, {"mode": "cached_with_expiry", "max_age_s": 600})
    stage.host.links.lost()
    stage.host.clock.advance(601)
    assert_stale(stage)


@REGISTER.single(150, "fail_closed denies once the connection is lost", PolicyStale)
def test_fail_closed_denies_without_a_connection(tmp_path: Path, attack: Attack) -> None:
    stage = host_with(tmp_path / "s", CACHED, {"mode": "fail_closed", "max_age_s": 0})
    assert stage.host.standing().source is PolicySource.LIVE
    stage.host.links.lost()
    assert_stale(stage)


@REGISTER.single(150, "fail_closed denies when heartbeats stop on an open stream", PolicyStale)
def test_fail_closed_denies_without_heartbeats(tmp_path: Path, attack: Attack) -> None:
    stage = host_with(tmp_path / "s", CACHED, {"mode": "fail_closed", "max_age_s": 0})
    stage.host.clock.advance(300)
    stage.host.links.heard(stage.host.moment())
    assert_stale(stage)


@REGISTER.single(151, "cached_indefinite does not survive a revocation", KeyRevoked)
def test_revocation_beats_every_mode(tmp_path: Path, attack: Attack) -> None:
    lax = OfflineRule(OfflineMode.CACHED_INDEFINITE, 0.0)
    stage = host_with(tmp_path / "s", lax, {"mode": "cached_indefinite", "max_age_s": 0})
    keeper = PrivateKeySigner.generate()
    revoked = {stage.org.bundle_signer.public_key.key_id: int(stage.host.clock.now())}
    roles = roles_with(stage.org, delegation(ORG, keeper))
    stage.host.hear(*root_of(stage.org.root_envelope(version=2, signers=[keeper], roles=roles, revoked=revoked)))
    stage.host.links.lost()
    assert stage.host.nacks == ["KeyRevoked"]
    assert stage.host.counted("KeyRevoked") == 1
    assert stage.host.standing().denial is Reason.NO_POLICY
    assert stage.host.restart().standing().denial is Reason.NO_POLICY


@REGISTER.single(152, "default_policy needs a signed permission", PolicyStale)
def test_the_default_policy_needs_a_signed_permission(tmp_path: Path, attack: Attack) -> None:
    local = OfflineRule(OfflineMode.DEFAULT_POLICY, 600.0)
    stage = host_with(tmp_path / "s", local, DAY_FLOOR)
    stage.host.links.lost()
    stage.host.clock.advance(601)
    standing = assert_stale(stage)
    assert not standing.by_default


@REGISTER.single(153, "an expired team layer denies and is not skipped", BundleExpired)
def test_an_expired_layer_is_not_skipped(stage: Stage, attack: Attack) -> None:
    before = stage.host.snapshots.current
    now = int(stage.host.clock.now())
    team = Layer(before.layers[1].compiled, BundleVersion(TEAM, 1, 1, "0" * 64), now, before.layers[1].floor)
    with_team = Snapshot.build(
        [*before.layers, team], local=stage.host.local, freshness=before.freshness, proof=before.proof
    )
    standing = stand(with_team, stage.host.links.current, stage.host.moment())
    assert (standing.denial, type(standing.error)) == (Reason.BUNDLE_EXPIRED, BundleExpired)
    assert TEAM in standing.message
    earlier = replace(team, expires_at=now + 1)
    fine = Snapshot.build(
        [*before.layers, earlier], local=stage.host.local, freshness=before.freshness, proof=before.proof
    )
    assert stand(fine, stage.host.links.current, stage.host.moment()).denial is None


@REGISTER.single(153, "an expired layer denies on the whole host", BundleExpired)
def test_an_expired_layer_denies_in_the_second_that_it_names(stage: Stage, attack: Attack) -> None:
    until = int(stage.host.clock.now()) + 100
    stage.host.update(FORBID, scope=ORG, expires_at=until)
    stage.host.clock.advance(99)
    stage.assert_decides()
    stage.host.clock.advance(1)
    standing = stage.host.standing()
    assert (standing.denial, type(standing.error)) == (Reason.BUNDLE_EXPIRED, BundleExpired)
    assert stage.host.nacks == ["BundleExpired"]
    assert stage.host.counted("BundleExpired") == 1
    assert stage.host.decide() is None
    assert stage.host.versions == {"global": 2, ORG: 3}


@REGISTER.single(154, "forbids stay under default_policy", None)
def test_forbids_stay_under_the_default_policy(tmp_path: Path, attack: Attack) -> None:
    local = OfflineRule(OfflineMode.DEFAULT_POLICY, 600.0)
    forbid = {"forbid-all": '@id("forbid-all") forbid (principal, action, resource);'}
    stage = host_with(tmp_path / "s", local, {"mode": "default_policy", "max_age_s": 600}, policies=forbid)
    stage.host.links.lost()
    stage.host.clock.advance(601)
    standing = stage.host.standing()
    assert (standing.source, standing.by_default) == (PolicySource.DEFAULT, True)
    verdict = stage.host.decide()
    assert verdict is not None
    assert verdict.effect is Effect.DENY
    assert [policy.policy_id for policy in verdict.determining] == ["forbid-all"]
    assert pytest.approx(601_000) == standing.age_ms
