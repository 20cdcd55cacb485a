"""Attacks on thresholds and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.envelope import EnvelopeSignature
from akpolicy.errors import (
    KeyIdMismatch,
    KeyNotAuthorised,
    ScopeMismatch,
    SignatureInvalid,
    ThresholdNotMet,
    UnknownKey,
)
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import refuse_ungranted
from tests.simulators.org import OrgSimulator, delegation, role
from tests.simulators.tampering import with_key_id, with_more_signatures

if TYPE_CHECKING:
    from tests.unit.trust.scene import Scene

TEAM_A = "org/acme/team/a"


@pytest.fixture
def second() -> PrivateKeySigner:
    return PrivateKeySigner.generate()


@pytest.fixture
def two_of_two(scene: Scene, second: PrivateKeySigner) -> Scene:
    """Return the scene of an org whose bundles need both keys."""
    org = scene.org
    roles = {
        "root": role(org.root_signer),
        "bundle": [delegation(org.scope, org.bundle_signer, second, threshold=2)],
    }
    return scene.with_root(signers=[second], roles=roles)


def roles_with(org: OrgSimulator, *bundle: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"root": role(org.root_signer), "bundle": list(bundle), **more}


def test_both_of_two_keys_are_enough(two_of_two: Scene, second: PrivateKeySigner) -> None:
    org = two_of_two.org
    two_of_two.accept(*org.bundle_envelope(org.scope, signed_by=[org.bundle_signer, second]))


def test_one_of_two_keys_is_not_enough(two_of_two: Scene) -> None:
    two_of_two.refuses(ThresholdNotMet, *two_of_two.org.bundle_envelope(two_of_two.org.scope))


def test_one_key_that_signs_twice_counts_once(two_of_two: Scene) -> None:
    org = two_of_two.org
    twice = org.bundle_envelope(org.scope, signed_by=[org.bundle_signer, org.bundle_signer])
    two_of_two.refuses(ThresholdNotMet, *twice)


def test_one_key_under_two_ids_counts_once(two_of_two: Scene, second: PrivateKeySigner) -> None:
    org = two_of_two.org
    envelope, blob = org.bundle_envelope(org.scope)
    signature = envelope.signatures[0].signature
    unknown = with_more_signatures(envelope, EnvelopeSignature("f" * 64, signature))
    two_of_two.refuses(ThresholdNotMet, unknown, blob)
    claimed = with_more_signatures(envelope, EnvelopeSignature(second.public_key.key_id, signature))
    two_of_two.refuses(SignatureInvalid, claimed, blob)


def test_a_good_and_an_unknown_signature_are_not_two(two_of_two: Scene) -> None:
    org = two_of_two.org
    signers = [org.bundle_signer, PrivateKeySigner.generate()]
    two_of_two.refuses(ThresholdNotMet, *org.bundle_envelope(org.scope, signed_by=signers))


def test_a_key_of_another_role_does_not_count_towards_the_threshold(two_of_two: Scene) -> None:
    org = two_of_two.org
    two_of_two.refuses(ThresholdNotMet, *org.bundle_envelope(org.scope, signed_by=[org.bundle_signer, org.root_signer]))


def test_a_key_listed_under_another_id_is_refused(scene: Scene) -> None:
    org = scene.org
    document = org.root_document()
    keys = document["keys"]
    a, b = org.bundle_signer.public_key.key_id, org.platform_signer.public_key.key_id
    keys[a], keys[b] = keys[b], keys[a]
    scene.refuses_root(KeyIdMismatch, org.root_envelope(keys=keys))


def test_a_heartbeat_key_cannot_sign_a_bundle(scene: Scene, second: PrivateKeySigner) -> None:
    org = scene.org
    roles = roles_with(org, delegation(org.scope, org.bundle_signer), heartbeat=role(second))
    scene.with_root(signers=[second], roles=roles)
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(org.scope, signed_by=[second]))


def test_a_rollback_key_cannot_sign_a_bundle(scene: Scene, second: PrivateKeySigner) -> None:
    org = scene.org
    roles = roles_with(org, delegation(org.scope, org.bundle_signer), rollback=[delegation(org.scope, second)])
    scene.with_root(signers=[second], roles=roles)
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(org.scope, signed_by=[second]))


def test_the_root_key_cannot_sign_a_bundle(scene: Scene) -> None:
    org = scene.org
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(org.scope, signed_by=[org.root_signer]))


def test_another_orgs_key_that_the_root_lists_for_nothing_is_refused(scene: Scene) -> None:
    other = OrgSimulator("globex", scene.clock)
    scene.with_root(signers=[other.bundle_signer])
    scene.refuses(KeyNotAuthorised, *scene.org.bundle_envelope(scene.org.scope, signed_by=[other.bundle_signer]))


def test_another_orgs_key_that_the_root_does_not_list_is_unknown(scene: Scene) -> None:
    other = OrgSimulator("globex", scene.clock)
    scene.refuses(UnknownKey, *scene.org.bundle_envelope(scene.org.scope, signed_by=[other.bundle_signer]))


@pytest.mark.parametrize(
    ("key", "scope"),
    [("platform_signer", "org/acme"), ("bundle_signer", "global"), ("platform_signer", TEAM_A)],
    ids=["platform key for the org", "org key for global", "platform key for a team"],
)
def test_a_key_signs_its_own_scopes_only(scene: Scene, key: str, scope: str) -> None:
    scene.refuses(KeyNotAuthorised, *scene.org.bundle_envelope(scope, signed_by=[getattr(scene.org, key)]))


def test_an_undelegated_scope_can_be_signed_by_nobody(scene: Scene) -> None:
    org = scene.org
    scene.with_root(roles=roles_with(org, delegation(TEAM_A, org.bundle_signer)))
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(org.scope))
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope("global", signed_by=[org.bundle_signer]))


def test_a_prefix_ends_where_a_segment_ends(scene: Scene) -> None:
    org = scene.org
    scene.with_root(roles=roles_with(org, delegation(TEAM_A, org.bundle_signer)))
    scene.accept(*org.bundle_envelope(TEAM_A))
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(TEAM_A + "b"))


def test_the_most_specific_prefix_alone_counts(scene: Scene, second: PrivateKeySigner) -> None:
    org = scene.org
    roles = roles_with(org, delegation(org.scope, org.bundle_signer), delegation(TEAM_A, second))
    scene.with_root(signers=[second], roles=roles)
    scene.accept(*org.bundle_envelope(TEAM_A, signed_by=[second]))
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(TEAM_A, signed_by=[org.bundle_signer]))
    scene.accept(*org.bundle_envelope("org/acme/team/b", signed_by=[org.bundle_signer]))


def test_a_team_lead_cannot_sign_the_orgs_layer(scene: Scene, second: PrivateKeySigner) -> None:
    org = scene.org
    roles = roles_with(org, delegation(org.scope, org.bundle_signer), delegation(TEAM_A, second))
    scene.with_root(signers=[second], roles=roles)
    scene.refuses(KeyNotAuthorised, *org.bundle_envelope(org.scope, signed_by=[second]))


def test_a_team_bundle_does_not_pass_for_the_orgs(scene: Scene) -> None:
    envelope, _ = scene.org.bundle_envelope(TEAM_A)
    with pytest.raises(ScopeMismatch):
        scene.judge.judge_manifest(envelope, scene.now, expected_scope=scene.org.scope)
    assert scene.judge.judge_manifest(envelope, scene.now, expected_scope=TEAM_A).fresh


def test_a_bundle_of_another_org_is_refused(scene: Scene) -> None:
    scene.refuses(ScopeMismatch, *scene.org.bundle_envelope("org/globex"))
    scene.refuses(ScopeMismatch, *scene.org.bundle_envelope("org/acme2"))


def test_a_permit_from_a_prefix_that_may_only_forbid_is_refused(scene: Scene) -> None:
    org = scene.org
    scene.with_root(roles=roles_with(org, delegation(org.scope, org.bundle_signer, grants=False)))
    bundle = scene.accept(*org.bundle_envelope(org.scope))
    assert not bundle.grants
    with pytest.raises(KeyNotAuthorised, match="allow-all"):
        refuse_ungranted(bundle, ["allow-all"])
    refuse_ungranted(bundle, [])


def test_a_prefix_that_grants_may_permit(scene: Scene) -> None:
    bundle = scene.judged(scene.first, scene.first_blob)
    assert bundle.grants
    refuse_ungranted(bundle, ["allow-all"])


def test_a_more_specific_prefix_may_lose_the_right_to_grant(scene: Scene, second: PrivateKeySigner) -> None:
    org = scene.org
    team = delegation(TEAM_A, second, grants=False)
    scene.with_root(signers=[second], roles=roles_with(org, delegation(org.scope, org.bundle_signer), team))
    assert scene.accept(*org.bundle_envelope(org.scope)).grants
    assert not scene.accept(*org.bundle_envelope(TEAM_A, signed_by=[second])).grants


def test_an_id_that_is_swapped_between_two_keys_is_refused(two_of_two: Scene, second: PrivateKeySigner) -> None:
    org = two_of_two.org
    envelope, blob = org.bundle_envelope(org.scope, signed_by=[org.bundle_signer, second])
    swapped = with_key_id(with_key_id(envelope, second.public_key.key_id, 0), org.bundle_signer.public_key.key_id, 1)
    two_of_two.refuses(SignatureInvalid, swapped, blob)
