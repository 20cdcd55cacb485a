"""Roots from the server: followed one by one, kept, and what they no longer stand behind dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import (
    Equivocation,
    RootChainTooLong,
    RootExpired,
    RootRollback,
    RootThresholdOld,
    RootUnanchored,
)
from akpolicy.limits import MAX_ROTATIONS
from akpolicy.signing import PrivateKeySigner
from akpolicy_sidecar.updates import AcceptedRoot, Outcome
from tests.simulators.org import DAY, OrgSimulator, delegation, role

if TYPE_CHECKING:
    from tests.simulators.host import HostSimulator
from tests.unit.sidecar.root_files import full_disk, refused, roots_on_disk

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


# --- the first one ----------------------------------------------------------------------------------------------------


def test_the_first_root_takes_effect_and_survives(new_host: HostSimulator) -> None:
    accepted = new_host.updater.apply_root(new_host.office.root)

    assert accepted == AcceptedRoot(Outcome.APPLIED, 1)
    new_host.updater.end_roots()
    assert new_host.restart().updater.root_version == 1


def test_the_same_root_again_changes_nothing(host: HostSimulator) -> None:
    before = host.facts()

    assert host.updater.apply_root(host.office.root) == AcceptedRoot(Outcome.UNCHANGED, 1)
    assert host.facts() == before


def test_a_root_by_foreign_anchors_is_passed_over_and_at_the_end_an_error(new_host: HostSimulator) -> None:
    foreign = OrgSimulator(clock=new_host.clock).root_envelope()

    assert new_host.updater.apply_root(foreign) == AcceptedRoot(Outcome.PASSED_OVER, 0)
    with pytest.raises(RootUnanchored):
        new_host.updater.end_roots()

    assert new_host.updater.holdings.root_version == 0
    assert roots_on_disk(new_host) == []


def test_a_connection_that_brings_no_root_to_a_new_host_is_no_error(new_host: HostSimulator) -> None:
    new_host.updater.begin_roots()
    new_host.updater.end_roots()

    assert new_host.updater.root is None


def test_roots_before_the_first_that_todays_anchors_signed_are_passed_over(new_host: HostSimulator) -> None:
    org, old = new_host.org, PrivateKeySigner.generate()
    first = org.root_envelope(signers=[old], roles={**org.root_document()["roles"], "root": role(old)}, signed_by=[old])
    second = org.root_envelope(version=2, signed_by=[old, org.root_signer])

    outcomes = [new_host.updater.apply_root(root).outcome for root in (first, second)]
    new_host.updater.end_roots()

    assert outcomes == [Outcome.PASSED_OVER, Outcome.APPLIED]
    assert new_host.updater.root_version == 2
    assert new_host.restart().updater.root_version == 2


def test_an_error_of_an_earlier_connection_is_forgotten_by_the_next(new_host: HostSimulator) -> None:
    new_host.updater.apply_root(OrgSimulator(clock=new_host.clock).root_envelope())

    new_host.updater.begin_roots()
    new_host.updater.apply_root(new_host.office.root)
    new_host.updater.end_roots()

    assert new_host.updater.root_version == 1


# --- the next ones ----------------------------------------------------------------------------------------------------


def test_a_chain_is_followed_and_every_root_of_it_kept(enforcing: HostSimulator) -> None:
    for _ in range(3):
        assert enforcing.updater.apply_root(enforcing.office.rotate()).outcome is Outcome.APPLIED
    enforcing.updater.end_roots()

    assert enforcing.updater.root_version == 4
    assert roots_on_disk(enforcing) == ["00000001", "00000002", "00000003", "00000004"]
    again = enforcing.restart()
    assert (again.not_loaded, again.updater.root_version) == ([], 4)
    assert again.versions == {"global": 1, "org/acme": 1}


def test_what_is_still_stood_behind_is_not_touched(enforcing: HostSimulator) -> None:
    layers = enforcing.snapshots.current.layers

    accepted = enforcing.updater.apply_root(enforcing.office.rotate())

    assert accepted.dropped == ()
    assert enforcing.snapshots.current.layers == layers
    assert enforcing.standing().fresh


def test_layers_expire_with_the_newest_root(enforcing: HostSimulator) -> None:
    soon = int(enforcing.clock.now()) + 100

    enforcing.updater.apply_root(enforcing.office.rotate(expires_at=soon))
    assert enforcing.snapshots.current.expires_at == soon
    enforcing.updater.apply_root(enforcing.office.rotate())

    assert enforcing.snapshots.current.expires_at == int(enforcing.clock.now()) + 30 * DAY


def test_a_root_that_enough_of_the_old_keys_did_not_sign_is_refused(enforcing: HostSimulator) -> None:
    stranger = PrivateKeySigner.generate()
    roles = {**enforcing.org.root_document()["roles"], "root": role(stranger)}

    root = enforcing.org.root_envelope(version=2, signers=[stranger], roles=roles, signed_by=[stranger])

    refused(enforcing, RootThresholdOld, root)


def test_another_root_of_the_trusted_version_is_refused_and_both_are_kept_as_evidence(enforcing: HostSimulator) -> None:
    other = enforcing.org.root_envelope(expires_at=int(enforcing.clock.now()) + DAY)

    refused(enforcing, Equivocation, other)

    assert enforcing.updater.evidence_count == 2


def test_a_root_that_came_before_is_a_rollback(enforcing: HostSimulator) -> None:
    first = enforcing.office.root
    enforcing.updater.apply_root(enforcing.office.rotate())

    refused(enforcing, RootRollback, first)


def test_an_expired_root_is_followed_and_at_the_end_an_error(enforcing: HostSimulator) -> None:
    root = enforcing.office.rotate(expires_at=int(enforcing.clock.now()) + 10)
    enforcing.clock.advance(10)

    assert enforcing.updater.apply_root(root).outcome is Outcome.APPLIED
    with pytest.raises(RootExpired):
        enforcing.updater.end_roots()

    assert enforcing.updater.root_version == 2
    assert enforcing.standing().denial is Reason.BUNDLE_EXPIRED


def test_a_clock_that_is_known_to_be_ahead_does_not_make_a_root_expire(enforcing: HostSimulator) -> None:
    true = int(enforcing.clock.now())
    enforcing.clock.set_wall(true + 400 * DAY)
    enforcing.connect(issued_at=true, expires_at=true + 300)
    assert enforcing.standing().denial is None

    root = enforcing.org.root_envelope(version=2, issued_at=true, expires_at=true + 30 * DAY)
    enforcing.updater.apply_root(enforcing.office.add_root(root))
    enforcing.updater.end_roots()

    assert enforcing.standing().denial is None


def test_an_expired_root_in_the_middle_of_a_chain_does_not_matter(enforcing: HostSimulator) -> None:
    chain = [enforcing.office.rotate(expires_at=int(enforcing.clock.now()) + 10), enforcing.office.rotate()]
    enforcing.clock.advance(10)

    for root in chain:
        enforcing.updater.apply_root(root)
    enforcing.updater.end_roots()

    assert enforcing.updater.root_version == 3


def test_too_long_a_chain_is_followed_over_several_connections(new_host: HostSimulator) -> None:
    chain = [new_host.office.root, *(new_host.office.rotate() for _ in range(MAX_ROTATIONS + 1))]
    *most, last = chain
    for root in most:
        new_host.updater.apply_root(root)
    refused(new_host, RootChainTooLong, last)

    new_host.updater.begin_roots()
    assert new_host.updater.apply_root(last).outcome is Outcome.APPLIED


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_root_that_cannot_be_kept_is_believed_and_said_not_to_be_kept(enforcing: HostSimulator) -> None:
    root = enforcing.office.rotate(roles=global_only(enforcing))
    with full_disk(enforcing):
        accepted = enforcing.updater.apply_root(root)

    assert (accepted.outcome, accepted.version) == (Outcome.APPLIED, 2)
    assert accepted.not_kept is not None
    assert enforcing.snapshots.current.missing == ("org/acme",)
    # It is asked for again, and kept then.
    assert enforcing.updater.root_version == 1
    with full_disk(enforcing):
        again = enforcing.updater.apply_root(root)
    assert (again.outcome, again.not_kept is None) == (Outcome.UNCHANGED, False)
    enforcing.updater.begin_roots()
    assert enforcing.updater.apply_root(root) == AcceptedRoot(Outcome.UNCHANGED, 2)
    assert enforcing.updater.root_version == 2
    assert enforcing.restart().updater.root_version == 2


def test_a_root_that_comes_again_to_a_full_disk_is_said_not_to_be_kept(enforcing: HostSimulator) -> None:
    with full_disk(enforcing):
        accepted = enforcing.updater.apply_root(enforcing.office.root)

    assert (accepted.outcome, accepted.not_kept is None) == (Outcome.UNCHANGED, False)
    assert enforcing.updater.apply_root(enforcing.office.root).not_kept is None


def test_a_chain_of_which_some_could_not_be_kept_is_whole_on_disk_in_the_end(enforcing: HostSimulator) -> None:
    second, third, fourth = (enforcing.office.rotate() for _ in range(3))
    with full_disk(enforcing):
        enforcing.updater.apply_root(second)
        assert enforcing.updater.apply_root(third).not_kept is not None
    # Whatever comes next brings the chain to the disk: those before first.
    assert enforcing.updater.apply_root(fourth).not_kept is None

    assert roots_on_disk(enforcing) == ["00000001", "00000002", "00000003", "00000004"]
    again = enforcing.restart()
    assert (again.not_loaded, again.updater.root_version) == ([], 4)


def test_roots_that_could_not_be_kept_may_come_again(enforcing: HostSimulator) -> None:
    second, third = enforcing.office.rotate(), enforcing.office.rotate()
    with full_disk(enforcing):
        for root in (second, third):
            enforcing.updater.apply_root(root)
    assert enforcing.updater.root_version == 1
    enforcing.updater.begin_roots()

    outcomes = [enforcing.updater.apply_root(root) for root in (second, third)]
    enforcing.updater.end_roots()

    assert [(accepted.outcome, accepted.not_kept) for accepted in outcomes] == [(Outcome.UNCHANGED, None)] * 2
    assert roots_on_disk(enforcing) == ["00000001", "00000002", "00000003"]
    assert enforcing.restart().updater.root_version == 3
    # Kept, it is one that came before like any other.
    refused(enforcing, RootRollback, second)
