"""Rollbacks with real signatures: how far back they go, and what they must bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import AkpolicyError
from akpolicy_sidecar.updates import Outcome
from tests.simulators.tampering import flip_bit, with_signature

if TYPE_CHECKING:
    from akpolicy.bundle import ContentReference
    from tests.simulators.host import HostSimulator

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


def unused(_: ContentReference) -> bytes:
    pytest.fail("the content was asked for")


def test_a_rollback_brings_the_earlier_content_back_under_a_new_version(host: HostSimulator) -> None:
    earlier = host.office.publish(PERMIT)
    host.take(earlier)
    host.take(host.office.publish(FORBID))

    assert host.take(host.office.roll_back(earlier)) is Outcome.APPLIED

    assert host.versions == {"global": 3}
    assert [policy.id for policy in host.snapshots.current.layers[0].compiled.policies] == ["p"]


def test_a_rollback_survives_a_restart_with_its_original(host: HostSimulator) -> None:
    earlier = host.office.publish(PERMIT)
    host.take(earlier)
    host.update(FORBID)
    host.office.roll_back(earlier)
    host.hear(*host.office.bundle()).beat()

    again = host.restart()

    assert again.not_loaded == []
    assert (again.versions, again.digests) == (host.versions, host.digests)
    assert again.standing().denial is None


def test_a_rollback_goes_no_further_back_than_what_is_enforced_permits(host: HostSimulator) -> None:
    oldest, older = host.office.publish(PERMIT), host.office.publish(PERMIT)
    newest = host.office.publish(FORBID, min_version=2)
    for held in (oldest, older, newest):
        host.take(held)
    before = host.facts()

    with pytest.raises(AkpolicyError) as refusal:
        host.take(host.office.roll_back(oldest))

    assert refusal.value.code == "RollbackNotAuthorised"
    assert host.facts() == before
    assert host.take(host.office.roll_back(older)) is Outcome.APPLIED


def test_a_chain_of_rollbacks_ends_where_the_first_bundle_said(host: HostSimulator) -> None:
    oldest, older = host.office.publish(PERMIT), host.office.publish(PERMIT)
    newest = host.office.publish(FORBID, min_version=2)
    for held in (oldest, older, newest):
        host.take(held)
    host.take(host.office.roll_back(older))

    with pytest.raises(AkpolicyError) as refusal:
        host.take(host.office.roll_back(oldest))

    assert refusal.value.code == "RollbackNotAuthorised"
    again = host.restart()
    with pytest.raises(AkpolicyError) as refusal:
        again.take(again.office.roll_back(oldest))
    assert refusal.value.code == "RollbackNotAuthorised"


@pytest.mark.parametrize("original", ["none", "another", "damaged"])
def test_a_rollback_without_the_original_that_it_names_is_refused(host: HostSimulator, original: str) -> None:
    earlier, other = host.office.publish(PERMIT), host.office.publish(FORBID)
    host.take(earlier)
    host.take(other)
    rollback = host.office.roll_back(earlier)
    damaged = with_signature(earlier.envelope, lambda s: flip_bit(s, 7))
    sent = {"none": None, "another": other.envelope, "damaged": damaged}[original]
    before = host.facts()

    with pytest.raises(AkpolicyError) as refusal:
        host.updater.apply_bundle(rollback.envelope, unused, original=sent)

    assert refusal.value.code == ("SignatureInvalid" if original == "damaged" else "RollbackNotAuthorised")
    assert host.facts() == before
