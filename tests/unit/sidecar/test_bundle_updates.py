"""Bundles and rollbacks with real signatures: what takes effect, and what leaves everything as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.errors import (
    AkpolicyError,
    PolicyError,
    RootMissing,
    ScopeMismatch,
)
from akpolicy.strict_json import dump
from akpolicy_sidecar.updates import Accepted, Outcome
from tests.simulators.host import HostSimulator
from tests.simulators.messages import check_text
from tests.simulators.office import Held
from tests.simulators.org import DAY, OrgSimulator, delegation, role, sign
from tests.simulators.tampering import flip_bit, with_payload, with_signature

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.bundle import ContentReference

PERMIT = {"p": '@id("p") permit (principal, action, resource);'}
FORBID = {"f": '@id("f") forbid (principal, action, resource);'}


def unused(_: ContentReference) -> bytes:
    pytest.fail("the content was asked for")


# --- what takes effect ------------------------------------------------------------------------------------------------


def test_a_bundle_takes_effect_and_survives_a_restart(host: HostSimulator) -> None:
    host.update(PERMIT).update(FORBID, scope="org/acme")

    again = host.restart()

    assert again.not_loaded == []
    assert again.versions == host.versions == {"global": 1, "org/acme": 1}
    assert again.digests == host.digests
    assert again.updater.holdings.blobs == host.updater.holdings.blobs
    assert again.standing().denial is None


def test_it_is_said_which_bundle_took_effect_by_its_signed_manifest(host: HostSimulator) -> None:
    held = host.office.publish(PERMIT, scope="org/acme", version=7)

    accepted = host.updater.apply_bundle(held.envelope, lambda _: held.blob or b"")

    assert accepted == Accepted(Outcome.APPLIED, "org/acme", 7)
    [bundle] = host.snapshots.current.bundles
    assert (bundle.scope, bundle.version, bundle.digest) == ("org/acme", 7, host.digests["org/acme"])
    assert bundle.digest == held.envelope.digest().hex()


def test_a_decision_names_the_scope_of_its_policy(host: HostSimulator) -> None:
    verdict = host.update(PERMIT, scope="org/acme").decide()

    assert verdict is not None
    assert [(policy.scope, policy.policy_id) for policy in verdict.determining] == [("org/acme", "p")]


def test_layers_come_broad_to_specific(host: HostSimulator) -> None:
    host.update(PERMIT, scope="org/acme").update(PERMIT)

    assert [layer.scope for layer in host.snapshots.current.layers] == ["global", "org/acme"]


def test_the_same_bundle_again_is_a_quiet_no_op(host: HostSimulator) -> None:
    held = host.office.publish(PERMIT)
    host.take(held)
    before = host.facts()

    assert host.updater.apply_bundle(held.envelope, unused) == Accepted(Outcome.UNCHANGED, "global", 1)
    assert host.facts() == before


def test_the_state_keeps_the_digest_of_what_came_before(host: HostSimulator) -> None:
    def previous(host: HostSimulator) -> str | None:
        return host.directory.state.scopes["global"].previous_digest

    first = host.update(PERMIT).digests["global"]
    assert previous(host) is None

    host.update(FORBID)

    assert previous(host) == previous(host.restart()) == first


def test_a_scope_that_came_before_any_heartbeat_named_it_is_kept_as_unconfirmed(new_host: HostSimulator) -> None:
    host, office = new_host, new_host.office
    hello = host.new_session().hello().hello
    office.publish(PERMIT)
    sent = office.missing(hello)
    # Named by the heartbeat and never sent: so there was no time at which all was there.
    office.publish(PERMIT, scope="org/acme")
    host.hear(*sent, office.heartbeat(nonce=hello.nonce.hex()))

    office.publish(PERMIT, scope="org/acme/team/a")
    host.hear(*office.bundle("org/acme/team/a"))

    for running in (host, host.restart()):
        kept = running.directory.state
        assert kept.freshness.common is not None
        assert kept.freshness.unconfirmed == ["org/acme/team/a"]
        assert sorted(kept.freshness.freshness(kept.scopes).by_scope) == ["global"]


def test_what_no_heartbeat_named_is_not_lacking(new_host: HostSimulator) -> None:
    said = [new_host.updater.lacking]
    new_host.connect()
    new_host.office.publish(PERMIT)
    new_host.beat()

    assert [*said, new_host.updater.lacking] == [(), ("global",)]


def test_a_policy_that_cannot_be_read_is_named_with_its_scope(host: HostSimulator) -> None:
    with pytest.raises(PolicyError) as refusal:
        host.take(_unparsable(host))

    assert (refusal.value.source, refusal.value.policy_id) == ("global", "p")


def test_a_scope_of_nobody_here_is_refused_by_name(host: HostSimulator) -> None:
    held = host.office.publish(PERMIT, scope="org/other/team/a")

    with pytest.raises(ScopeMismatch) as refusal:
        host.take(held)

    assert refusal.value.message == "bundle is for `org/other/team/a`, which is not a scope of `acme`"


def test_a_renewal_with_the_same_content_is_not_compiled_again(host: HostSimulator) -> None:
    host.update(PERMIT)
    compiled = host.snapshots.current.layers[0].compiled

    host.update(PERMIT)

    assert host.versions == {"global": 2}
    assert host.snapshots.current.layers[0].compiled is compiled


def test_a_deletion_removes_the_layer_and_is_remembered(host: HostSimulator) -> None:
    host.update(PERMIT).update(PERMIT, scope="org/acme")
    deletion = host.office.delete("org/acme")
    assert host.updater.apply_bundle(deletion.envelope, unused).outcome is Outcome.APPLIED

    again = host.restart()

    assert again.not_loaded == []
    assert again.versions == {"global": 1}
    assert [(b.scope, b.version) for b in again.updater.holdings.enforced] == [("global", 1), ("org/acme", 2)]


def test_a_deleted_scope_is_not_resurrected_by_an_old_bundle(host: HostSimulator) -> None:
    old = host.office.publish(PERMIT, scope="org/acme")
    host.take(old)
    host.take(host.office.delete("org/acme"))

    with pytest.raises(AkpolicyError) as refusal:
        host.take(old)

    assert refusal.value.code == "RollbackDetected"


def test_the_layer_expires_with_the_root_if_that_is_earlier(new_host: HostSimulator) -> None:
    soon = int(new_host.clock.now()) + DAY
    new_host.office.roots = [new_host.org.root_envelope(expires_at=soon)]

    new_host.connect().update(PERMIT)

    assert new_host.snapshots.current.expires_at == soon


# --- what is refused --------------------------------------------------------------------------------------------------


def _flipped_payload(host: HostSimulator) -> Held:
    held = host.office.publish(PERMIT)
    return held._replace(envelope=with_payload(held.envelope, flip_bit(held.envelope.payload, 100)))


def _flipped_signature(host: HostSimulator) -> Held:
    held = host.office.publish(PERMIT)
    return held._replace(envelope=with_signature(held.envelope, lambda s: flip_bit(s, 7)))


def _other_content(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT)._replace(blob=host.office.publish(FORBID, version=9).blob)


def _wrong_key(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, signed_by=[host.org.bundle_signer])


def _rollback_key(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, signed_by=[host.org.rollback_signer])


def _heartbeat_key(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, signed_by=[host.org.heartbeat_signer])


def _root_as_bundle(host: HostSimulator) -> Held:
    return Held(host.org.root_envelope(), b"")


def _relabelled(host: HostSimulator) -> Held:
    held = host.office.publish(PERMIT)
    return held._replace(envelope=sign("application/vnd.akpolicy.bundle.v2+json", held.envelope.payload, []))


def _team(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, scope="org/acme2/team/t")


def _foreign(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, scope="org/other")


def _older(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, version=1)


def _same_version(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, version=2)


def _expired(host: HostSimulator) -> Held:
    now = int(host.clock.now())
    return host.office.publish(PERMIT, issued_at=now - DAY, not_before=now - DAY, expires_at=now)


def _of_tomorrow(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, issued_at=int(host.clock.now()) + DAY)


def _next_epoch(host: HostSimulator) -> Held:
    return host.office.publish(PERMIT, epoch=2)


def _unparsable(host: HostSimulator) -> Held:
    return host.office.publish({"p": '@id("p") permit (principal, action, resource) wenn { 1 };'})


def _with_schema(host: HostSimulator) -> Held:
    return host.office.publish(dump({"policies": [{"id": "p", "text": PERMIT["p"]}], "schema": "entity User;"}))


def _unfit(host: HostSimulator) -> Held:
    text = '@id("p") permit (principal, action, resource) when { principal.shoe_size == 42 };'
    return host.office.publish({"p": text})


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_flipped_payload, "SignatureInvalid"),
        (_flipped_signature, "SignatureInvalid"),
        (_other_content, "ContentDigestMismatch"),
        (_wrong_key, "KeyNotAuthorised"),
        (_rollback_key, "KeyNotAuthorised"),
        (_heartbeat_key, "KeyNotAuthorised"),
        (_root_as_bundle, "PayloadTypeMismatch"),
        (_relabelled, "PayloadTypeMismatch"),
        (_team, "ScopeMismatch"),
        (_foreign, "ScopeMismatch"),
        (_older, "RollbackDetected"),
        (_same_version, "Equivocation"),
        (_expired, "BundleExpired"),
        (_of_tomorrow, "IssuedInFuture"),
        (_next_epoch, "EpochMismatch"),
        (_unparsable, "PolicyParseError"),
        (_unfit, "PolicyValidationError"),
        (_with_schema, "SchemaUnsupported"),
    ],
)
def test_a_refused_bundle_leaves_everything_as_it_was(
    host: HostSimulator, make: Callable[[HostSimulator], Held], code: str
) -> None:
    host.update(PERMIT).update(FORBID)  # version 2
    before = host.facts()
    bad = make(host)

    with pytest.raises(AkpolicyError) as refusal:
        host.take(bad)

    assert refusal.value.code == code
    check_text(refusal.value.message)
    assert host.facts() == before
    again = host.restart()
    assert again.not_loaded == []
    assert again.versions == {"global": 2}


def test_nothing_is_believed_before_a_root_is(new_host: HostSimulator) -> None:
    with pytest.raises(RootMissing):
        new_host.take(new_host.office.publish(PERMIT))


def test_after_a_refusal_the_next_good_bundle_takes_effect(host: HostSimulator) -> None:
    host.update(PERMIT)
    with pytest.raises(AkpolicyError):
        host.take(_unparsable(host))

    assert host.take(host.office.publish(FORBID)) is Outcome.APPLIED
    assert host.versions == {"global": 3}


def test_a_prefix_without_grants_publishes_forbids_only(new_host: HostSimulator) -> None:
    org = new_host.org
    roles = {
        "root": role(org.root_signer),
        "bundle": [delegation("global", org.platform_signer, grants=False)],
        "heartbeat": role(org.heartbeat_signer),
    }
    new_host.office.roots = [org.root_envelope(roles=roles)]
    new_host.connect()

    assert new_host.take(new_host.office.publish(FORBID)) is Outcome.APPLIED
    with pytest.raises(AkpolicyError) as refusal:
        new_host.take(new_host.office.publish({**FORBID, **PERMIT}))

    assert refusal.value.code == "KeyNotAuthorised"
    assert "`p`" in refusal.value.message


def test_two_bundles_of_one_version_are_both_kept_as_evidence(host: HostSimulator) -> None:
    ours = host.office.publish(PERMIT, version=4)
    host.take(ours)

    with pytest.raises(AkpolicyError):
        host.take(host.office.publish(FORBID, version=4))

    assert host.updater.evidence_count == 2


def test_what_is_merely_refused_is_no_evidence(host: HostSimulator) -> None:
    host.update(PERMIT).update(FORBID)
    for make in (_flipped_signature, _older, _wrong_key, _unparsable):
        with pytest.raises(AkpolicyError):
            host.take(make(host))

    assert host.updater.evidence_count == 0


def test_evidence_that_cannot_be_kept_changes_nothing_about_the_refusal(host: HostSimulator) -> None:
    host.take(host.office.publish(PERMIT, version=4))
    (host.place / "evidence").rmdir()

    with pytest.raises(AkpolicyError) as refusal:
        host.take(host.office.publish(FORBID, version=4))

    assert refusal.value.code == "Equivocation"
    assert host.counted("CacheWriteFailed") == 2


def test_another_org_has_the_same_rules(tmp_path: Path) -> None:
    other = HostSimulator(tmp_path / "other", org=OrgSimulator("globex")).connect()

    other.update(PERMIT, scope="org/globex")
    with pytest.raises(AkpolicyError):
        other.take(other.office.publish(PERMIT, scope="org/acme"))

    assert other.versions == {"org/globex": 1}
    other.close()
