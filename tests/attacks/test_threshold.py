"""Attacks on thresholds and roles (A-18 to A-29)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.envelope import EnvelopeSignature
from akpolicy.errors import KeyIdMismatch, KeyNotAuthorised, ThresholdNotMet
from akpolicy.signing import PrivateKeySigner
from tests.attacks.stage import FORBID, ORG, PERMIT, REGISTER, TEAM, Attack, Stage, bundle_of, roles_with, root_of
from tests.simulators.org import OrgSimulator, delegation
from tests.simulators.tampering import with_more_signatures

if TYPE_CHECKING:
    from pathlib import Path

SECOND = PrivateKeySigner.generate()


class TwoOfTwo(Stage):
    """A host of an org whose own bundles need two keys."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        roles = roles_with(self.org, delegation(ORG, self.org.bundle_signer, SECOND, threshold=2))
        self.office.roots = [self.org.root_envelope(signers=[SECOND], roles=roles)]
        self.enforce(signed_by=[self.org.bundle_signer, SECOND])


def under_two_ids(org: OrgSimulator) -> Any:
    envelope, blob = org.bundle_envelope(ORG, FORBID)
    again = EnvelopeSignature("f" * 64, envelope.signatures[0].signature)
    return with_more_signatures(envelope, again), blob


THRESHOLDS = REGISTER.table(
    (18, "one of two needed keys is not enough", ThresholdNotMet, lambda o: o.bundle_envelope(ORG, FORBID)),
    (
        19,
        "one key that signs twice counts once",
        ThresholdNotMet,
        lambda o: o.bundle_envelope(ORG, FORBID, signed_by=[o.bundle_signer, o.bundle_signer]),
    ),
    (20, "one key under two ids counts once", ThresholdNotMet, under_two_ids),
    (
        21,
        "a good and an unknown signature are not two",
        ThresholdNotMet,
        lambda o: o.bundle_envelope(ORG, FORBID, signed_by=[o.bundle_signer, PrivateKeySigner.generate()]),
    ),
    (
        21,
        "a key of another role does not count",
        ThresholdNotMet,
        lambda o: o.bundle_envelope(ORG, FORBID, signed_by=[o.bundle_signer, o.heartbeat_signer]),
    ),
)


@pytest.mark.parametrize("attack", THRESHOLDS, ids=str)
def test_a_threshold_counts_distinct_keys_of_the_role(tmp_path: Path, attack: Attack) -> None:
    stage = TwoOfTwo(tmp_path / "state")
    stage.refuses(attack, bundle_of(*attack.act(stage.org)))


@REGISTER.single(22, "a key listed under another id is refused", KeyIdMismatch)
def test_a_key_id_is_recomputed(stage: Stage, attack: Attack) -> None:
    keys = stage.org.root_document()["keys"]
    one, other = stage.org.bundle_signer.public_key.key_id, stage.org.platform_signer.public_key.key_id
    keys[one], keys[other] = keys[other], keys[one]
    stage.refuses(attack, root_of(stage.org.root_envelope(version=2, keys=keys)))


def signed(stage: Stage, signer: PrivateKeySigner) -> Any:
    return bundle_of(*stage.org.bundle_envelope(ORG, FORBID, signed_by=[signer]))


def rolled_back(stage: Stage) -> Any:
    original, blob = stage.old[ORG]
    return bundle_of(stage.org.rollback_envelope(original, signed_by=[stage.org.bundle_signer]), blob, original)


WRONG_KEYS = REGISTER.table(
    (23, "a heartbeat key cannot sign a bundle", KeyNotAuthorised, lambda s: signed(s, s.org.heartbeat_signer)),
    (24, "a rollback key cannot sign a bundle", KeyNotAuthorised, lambda s: signed(s, s.org.rollback_signer)),
    (25, "a bundle key cannot sign a rollback", KeyNotAuthorised, rolled_back),
    (26, "the platform's key cannot sign for the org", KeyNotAuthorised, lambda s: signed(s, s.org.platform_signer)),
    (26, "the root key cannot sign a bundle", KeyNotAuthorised, lambda s: signed(s, s.org.root_signer)),
    (
        26,
        "the org's key cannot sign for everybody",
        KeyNotAuthorised,
        lambda s: bundle_of(*s.org.bundle_envelope("global", PERMIT, signed_by=[s.org.bundle_signer])),
    ),
)


@pytest.mark.parametrize("attack", WRONG_KEYS, ids=str)
def test_a_key_signs_what_its_role_says_and_nothing_else(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, attack.act(stage))


@REGISTER.single(26, "another org's key that the root lists for nothing cannot sign", KeyNotAuthorised)
def test_a_listed_key_without_a_role_signs_nothing(tmp_path: Path, attack: Attack) -> None:
    other = PrivateKeySigner.generate()
    stage = Stage(tmp_path / "state", signers=[other]).enforce()
    stage.refuses(attack, signed(stage, other))


@REGISTER.single(27, "a scope that the root delegates to nobody cannot be signed", KeyNotAuthorised)
def test_an_undelegated_scope_is_refused(stage: Stage, attack: Attack) -> None:
    # The next root takes the delegation away; the org's layer is dropped, and nothing of it comes back.
    stage.host.hear(*root_of(stage.org.root_envelope(version=2, roles=roles_with(stage.org))))
    assert stage.host.versions == {"global": 2}
    stage.refuses_without_policy(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID)))


@REGISTER.single(28, "a prefix ends where a segment ends", KeyNotAuthorised)
def test_a_longer_name_is_not_covered(tmp_path: Path, attack: Attack) -> None:
    stage = Stage(tmp_path / "state")
    org, lead = stage.org, PrivateKeySigner.generate()
    roles = roles_with(org, delegation(TEAM, lead))
    stage.office.roots = [org.root_envelope(signers=[lead], roles=roles)]
    stage.office.publish(PERMIT)
    stage.host.connect()
    stage.refuses(attack, bundle_of(*org.bundle_envelope(TEAM + "b", FORBID, signed_by=[lead])))


@REGISTER.single(29, "a permit from a prefix that may only forbid is refused", KeyNotAuthorised)
def test_who_may_only_forbid_cannot_permit(tmp_path: Path, attack: Attack) -> None:
    stage = Stage(tmp_path / "state")
    roles = roles_with(stage.org, delegation(ORG, stage.org.bundle_signer, grants=False))
    stage.office.roots = [stage.org.root_envelope(roles=roles)]
    stage.enforce()
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, PERMIT)))
