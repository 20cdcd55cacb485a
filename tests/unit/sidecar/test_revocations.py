"""What a new root no longer stands behind: dropped at once, and back only by what it does stand behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import AkpolicyError
from akpolicy.signing import PrivateKeySigner
from akpolicy_sidecar.freshness import NOTHING_CONFIRMED
from akpolicy_sidecar.state import FreshnessState
from akpolicy_sidecar.updates import Outcome
from tests.simulators.org import delegation, role

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


@pytest.fixture
def enforcing(host: HostSimulator) -> HostSimulator:
    """A host that enforces both its scopes."""
    return host.update(PERMIT).update(FORBID, scope="org/acme")


def roles_of(host: HostSimulator, *bundle: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the roles of a root that delegates these prefixes only."""
    org = host.org
    return {"root": role(org.root_signer), "bundle": list(bundle), "heartbeat": role(org.heartbeat_signer), **more}


def global_only(host: HostSimulator) -> dict[str, Any]:
    return roles_of(host, delegation("global", host.org.platform_signer))


def test_a_revoked_key_takes_its_bundles_with_it_and_everything_is_denied(enforcing: HostSimulator) -> None:
    leaked = enforcing.org.bundle_signer.public_key.key_id
    revoked = {leaked: int(enforcing.clock.now())}

    accepted = enforcing.updater.apply_root(enforcing.office.rotate(roles=global_only(enforcing), revoked=revoked))

    assert [(trouble.subject, trouble.error.code) for trouble in accepted.dropped] == [("org/acme", "KeyNotAuthorised")]
    assert enforcing.versions == {"global": 1}
    assert enforcing.snapshots.current.missing == ("org/acme",)
    assert enforcing.standing().denial is Reason.NO_POLICY
    assert [b.scope for b in enforcing.updater.holdings.enforced] == ["global"]
    # After a restart too.
    again = enforcing.restart()
    assert again.not_loaded == [("org/acme", "KeyNotAuthorised")]
    assert again.standing().denial is Reason.NO_POLICY


def test_a_revoked_key_beside_a_good_one_takes_the_bundle_with_it(new_host: HostSimulator) -> None:
    org, second = new_host.org, PrivateKeySigner.generate()
    both = roles_of(new_host, delegation("org/acme", org.bundle_signer, second))
    new_host.office.roots = [org.root_envelope(signers=[second], roles=both)]
    new_host.connect().update(PERMIT, scope="org/acme", signed_by=[org.bundle_signer, second])

    one = roles_of(new_host, delegation("org/acme", org.bundle_signer))
    revoked = {second.public_key.key_id: int(new_host.clock.now())}
    accepted = new_host.updater.apply_root(new_host.office.rotate(signers=[second], roles=one, revoked=revoked))

    assert [trouble.error.code for trouble in accepted.dropped] == ["KeyRevoked"]


def test_everything_that_revoked_keys_signed_is_dropped_at_once(enforcing: HostSimulator) -> None:
    org, fresh = enforcing.org, PrivateKeySigner.generate()
    roles = roles_of(enforcing, delegation("global", fresh), delegation("org/acme", fresh))
    now = int(enforcing.clock.now())
    revoked = {signer.public_key.key_id: now for signer in (org.platform_signer, org.bundle_signer)}

    accepted = enforcing.updater.apply_root(enforcing.office.rotate(signers=[fresh], roles=roles, revoked=revoked))

    assert [(t.subject, t.error.code) for t in accepted.dropped] == [
        ("global", "KeyRevoked"),
        ("org/acme", "KeyRevoked"),
    ]
    assert enforcing.versions == {}


def test_what_was_dropped_comes_back_by_the_same_or_a_newer_bundle_and_not_by_an_older(
    enforcing: HostSimulator,
) -> None:
    old = enforcing.office.current["org/acme"]
    newer = enforcing.office.publish(PERMIT, scope="org/acme")
    enforcing.take(newer)
    enforcing.updater.apply_root(enforcing.office.rotate(roles=global_only(enforcing)))
    enforcing.updater.apply_root(enforcing.office.rotate())

    with pytest.raises(AkpolicyError) as refusal:
        enforcing.take(old)
    assert refusal.value.code == "RollbackDetected"
    assert enforcing.take(newer) is Outcome.APPLIED
    assert enforcing.snapshots.current.missing == ()
    enforcing.clock.advance(1)
    assert enforcing.beat().standing().denial is None


def test_permits_that_a_root_no_longer_grants_are_dropped_and_forbids_stay(enforcing: HostSimulator) -> None:
    org = enforcing.org
    roles = roles_of(
        enforcing,
        delegation("global", org.platform_signer, grants=False),
        delegation("org/acme", org.bundle_signer, grants=False),
    )

    accepted = enforcing.updater.apply_root(enforcing.office.rotate(roles=roles))

    assert [(trouble.subject, trouble.error.code) for trouble in accepted.dropped] == [("global", "KeyNotAuthorised")]
    assert enforcing.versions == {"org/acme": 1}


def test_a_rollback_whose_key_is_revoked_is_dropped(enforcing: HostSimulator) -> None:
    earlier = enforcing.office.current["global"]
    enforcing.take(enforcing.office.publish(FORBID))
    enforcing.take(enforcing.office.roll_back(earlier))
    org = enforcing.org
    delegations = [delegation("global", org.platform_signer), delegation("org/acme", org.bundle_signer)]
    revoked = {org.rollback_signer.public_key.key_id: int(enforcing.clock.now())}

    accepted = enforcing.updater.apply_root(
        enforcing.office.rotate(roles=roles_of(enforcing, *delegations), revoked=revoked)
    )

    assert [trouble.subject for trouble in accepted.dropped] == ["global"]


def test_a_deletion_that_is_not_stood_behind_any_more_is_missing_too(enforcing: HostSimulator) -> None:
    enforcing.take(enforcing.office.delete("org/acme"))

    enforcing.updater.apply_root(enforcing.office.rotate(roles=global_only(enforcing)))

    assert enforcing.snapshots.current.missing == ("org/acme",)
    assert enforcing.standing().denial is Reason.NO_POLICY


# --- heartbeats of revoked keys ---------------------------------------------------------------------------------------


def revoke_heartbeat_key(host: HostSimulator) -> PrivateKeySigner:
    """Let the host follow a root with another heartbeat key; return that key."""
    org, fresh = host.org, PrivateKeySigner.generate()
    roles = {**org.root_document()["roles"], "heartbeat": role(fresh)}
    revoked = {org.heartbeat_signer.public_key.key_id: int(host.clock.now())}
    host.updater.apply_root(host.office.rotate(signers=[fresh], roles=roles, revoked=revoked))
    return fresh


def test_what_a_revoked_heartbeat_key_vouched_for_is_not_vouched_for_any_more(enforcing: HostSimulator) -> None:
    assert enforcing.standing().denial is None

    revoke_heartbeat_key(enforcing)

    assert enforcing.standing().denial is Reason.NO_POLICY
    assert enforcing.directory.state.freshness == FreshnessState()
    assert enforcing.restart().standing().denial is Reason.NO_POLICY


def test_a_revoked_heartbeat_key_vouches_for_nothing_although_another_signed_since(new_host: HostSimulator) -> None:
    org, second = new_host.org, PrivateKeySigner.generate()
    both = {**org.root_document()["roles"], "heartbeat": role(org.heartbeat_signer, second)}
    new_host.office.roots = [org.root_envelope(signers=[second], roles=both)]
    new_host.connect().update(PERMIT).update(PERMIT, scope="org/acme")
    # Only `global` is confirmed by the second key: the other scope's update is on its way.
    new_host.office.publish(PERMIT, scope="org/acme")
    new_host.clock.advance(1)
    new_host.beat(signed_by=[second])
    again = new_host.restart()

    one = {**both, "heartbeat": role(second)}
    revoked = {org.heartbeat_signer.public_key.key_id: int(again.clock.now())}
    again.updater.apply_root(again.office.rotate(signers=[second], roles=one, revoked=revoked))

    assert again.snapshots.current.freshness == NOTHING_CONFIRMED


def test_a_revoked_heartbeat_key_vouches_for_nothing_although_its_heartbeats_could_not_be_kept(
    new_host: HostSimulator,
) -> None:
    org, second = new_host.org, PrivateKeySigner.generate()
    both = {**org.root_document()["roles"], "heartbeat": role(org.heartbeat_signer, second)}
    new_host.office.roots = [org.root_envelope(signers=[second], roles=both)]
    new_host.connect(signed_by=[second])
    # The first change of a run writes `state.json`, and nothing can be renamed over a directory.
    new_host = new_host.restart()
    new_host.clock.advance(1)
    (new_host.place / "state.json").unlink()
    (new_host.place / "state.json").mkdir()
    new_host.connect()
    assert new_host.counted("CacheWriteFailed") == 1

    one = {**both, "heartbeat": role(second)}
    revoked = {org.heartbeat_signer.public_key.key_id: int(new_host.clock.now())}
    new_host.updater.apply_root(new_host.office.rotate(signers=[second], roles=one, revoked=revoked))

    assert new_host.snapshots.current.freshness == NOTHING_CONFIRMED


def test_the_next_heartbeat_key_vouches_again(enforcing: HostSimulator) -> None:
    fresh = revoke_heartbeat_key(enforcing)

    enforcing.connect(signed_by=[fresh])

    assert enforcing.nacks == []
    assert enforcing.standing().denial is None


def test_a_revoked_heartbeat_key_vouches_for_nothing_although_the_disk_was_full(enforcing: HostSimulator) -> None:
    # The first change of a run writes `state.json`, and nothing can be renamed over a directory.
    enforcing = enforcing.restart()
    root = enforcing.directory.state
    (enforcing.place / "state.json").rename(enforcing.place.parent / "moved")
    (enforcing.place / "state.json").mkdir()

    revoke_heartbeat_key(enforcing)

    assert enforcing.directory.state == root
    assert enforcing.standing().denial is Reason.NO_POLICY
