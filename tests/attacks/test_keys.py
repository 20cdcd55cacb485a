"""Attacks on keys: validity, revocation, weak keys, and anchors as configured (A-30 to A-43)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.decision import Reason
from akpolicy.errors import (
    AnchorFormat,
    DuplicateAnchor,
    ExpiryExceedsKey,
    KeyExpired,
    KeyNotYetValid,
    KeyRevoked,
    WeakKey,
)
from akpolicy.keys import AnchorSet
from akpolicy.limits import CLOCK_SKEW_S
from akpolicy.signing import PrivateKeySigner
from tests.attacks.stage import FORBID, ORG, REGISTER, Attack, Stage, bundle_of, roles_with, root_of
from tests.simulators.messages import check_text
from tests.simulators.org import DAY, ConfiguredAnchor, delegation

if TYPE_CHECKING:
    from pathlib import Path


def keys_with(stage: Stage, signer: PrivateKeySigner, **window: int) -> dict[str, Any]:
    """Return the root's keys, with another validity for one of them."""
    keys: dict[str, Any] = stage.org.root_document(signers=[signer])["keys"]
    keys[signer.public_key.key_id].update(window)
    return keys


def next_root_with(stage: Stage, **window: int) -> PrivateKeySigner:
    """Let the host follow to a root that lists a second bundle key with this validity; return that key."""
    second = PrivateKeySigner.generate()
    roles = roles_with(stage.org, delegation(ORG, stage.org.bundle_signer, second))
    root = stage.org.root_envelope(version=2, keys=keys_with(stage, second, **window), roles=roles)
    stage.office.add_root(root)
    stage.host.hear(*root_of(root)).beat()
    return second


@REGISTER.single(30, "an expired key is refused", KeyExpired)
def test_an_expired_key_is_refused(stage: Stage, attack: Attack) -> None:
    until = int(stage.host.clock.now()) + 10
    second = next_root_with(stage, valid_until=until)
    bundle = stage.org.bundle_envelope(ORG, FORBID, signed_by=[second], expires_at=until)
    stage.host.clock.advance(10)
    stage.refuses(attack, bundle_of(*bundle))


@REGISTER.single(31, "a key that is not valid yet is refused", KeyNotYetValid)
def test_a_key_that_is_not_valid_yet_is_refused(stage: Stage, attack: Attack) -> None:
    second = next_root_with(stage, valid_from=int(stage.host.clock.now()) + CLOCK_SKEW_S + 1)
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID, signed_by=[second])))


def revoking(stage: Stage, signer: PrivateKeySigner, keeper: PrivateKeySigner) -> Any:
    """Return the next root, which revokes `signer` and lets `keeper` sign for the org."""
    roles = roles_with(stage.org, delegation(ORG, keeper))
    revoked = {signer.public_key.key_id: int(stage.host.clock.now())}
    return stage.org.root_envelope(version=2, signers=[keeper], roles=roles, revoked=revoked)


@REGISTER.single(32, "a revoked key is refused", KeyRevoked)
def test_a_revoked_key_is_refused(stage: Stage, attack: Attack) -> None:
    keeper, leaked = PrivateKeySigner.generate(), stage.org.bundle_signer
    root = stage.office.add_root(revoking(stage, leaked, keeper))
    stage.host.hear(*root_of(root))
    stage.org.bundle_signer = keeper
    stage.host.update(FORBID, scope=ORG)
    stage.assert_decides()
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID, signed_by=[leaked])))


@REGISTER.single(32, "a revoked key's signature beside a good one is refused", KeyRevoked)
def test_a_revoked_key_is_an_alarm_even_beside_a_good_one(stage: Stage, attack: Attack) -> None:
    keeper, leaked = PrivateKeySigner.generate(), stage.org.bundle_signer
    root = stage.office.add_root(revoking(stage, leaked, keeper))
    stage.host.hear(*root_of(root))
    stage.org.bundle_signer = keeper
    stage.host.update(FORBID, scope=ORG)
    stage.refuses(attack, bundle_of(*stage.org.bundle_envelope(ORG, FORBID, signed_by=[keeper, leaked])))


@REGISTER.single(33, "what a revoked key has signed is dropped from what is enforced", KeyRevoked)
def test_a_revocation_drops_what_is_enforced(stage: Stage, attack: Attack) -> None:
    keeper = PrivateKeySigner.generate()
    root = stage.office.add_root(revoking(stage, stage.org.bundle_signer, keeper))
    before = stage.host.counted("KeyRevoked")
    stage.host.hear(*root_of(root))
    assert stage.host.nacks == ["KeyRevoked"]
    assert stage.host.counted("KeyRevoked") == before + 1
    assert stage.host.versions == {"global": 2}
    assert stage.host.standing().denial is Reason.NO_POLICY
    # A restart comes to the same; nothing brings the dropped layer back but a newer one of the new key.
    again = stage.host.restart()
    assert [(t.subject, t.error.code) for t in again.troubles] == [(ORG, "KeyRevoked")]
    assert again.standing().denial is Reason.NO_POLICY
    stage.org.bundle_signer = keeper
    stage.host = again.connect()
    stage.office.publish(FORBID, scope=ORG)
    stage.host.hear(*stage.office.bundle(ORG)).beat()
    stage.assert_decides()


@REGISTER.single(34, "a bundle that outlives its key is refused", ExpiryExceedsKey)
def test_a_bundle_does_not_outlive_its_key(stage: Stage, attack: Attack) -> None:
    until = int(stage.host.clock.now()) + DAY
    second = next_root_with(stage, valid_until=until)
    bundle = stage.org.bundle_envelope(ORG, FORBID, signed_by=[second], expires_at=until + 1)
    stage.refuses(attack, bundle_of(*bundle))


# --- weak keys --------------------------------------------------------------------------------------------------------

WEAK = REGISTER.table(
    (35, "a key of low order is refused", WeakKey, lambda: (2**255 - 20).to_bytes(32, "little")),
    (36, "a key of zero bytes is refused", WeakKey, lambda: bytes(32)),
    (37, "a key that is not canonical is refused", WeakKey, lambda: (2**255 - 1).to_bytes(32, "little")),
)


@pytest.mark.parametrize("attack", WEAK, ids=str)
def test_a_root_cannot_bring_a_weak_key(stage: Stage, attack: Attack) -> None:
    keys = stage.org.root_document()["keys"]
    keys[stage.org.bundle_signer.public_key.key_id]["public_key"] = base64.b64encode(attack.act()).decode()
    stage.refuses(attack, root_of(stage.org.root_envelope(version=2, keys=keys)))


# --- anchors as configured --------------------------------------------------------------------------------------------

GOOD = PrivateKeySigner.generate().public_key


def anchor(raw: bytes) -> str:
    return "ed25519:" + base64.b64encode(raw).decode("ascii")


ANCHORS = REGISTER.table(
    (35, "an anchor of low order is refused", WeakKey, lambda: [anchor((2**255 - 20).to_bytes(32, "little"))]),
    (36, "an anchor of zero bytes is refused", WeakKey, lambda: [anchor(bytes(32))]),
    (37, "an anchor that is not canonical is refused", WeakKey, lambda: [anchor((2**255 - 1).to_bytes(32, "little"))]),
    (38, "an age recipient is no anchor", AnchorFormat, lambda: ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5"]),
    (39, "31 bytes are no anchor", AnchorFormat, lambda: [anchor(GOOD.raw[:31])]),
    (39, "33 bytes are no anchor", AnchorFormat, lambda: [anchor(GOOD.raw + b"\0")]),
    (40, "a key without its prefix is no anchor", AnchorFormat, lambda: [base64.b64encode(GOOD.raw).decode()]),
    (40, "a key with another prefix is no anchor", AnchorFormat, lambda: ["ssh-" + anchor(GOOD.raw)]),
    (41, "a key id is no anchor", AnchorFormat, lambda: [GOOD.key_id]),
    (42, "an anchor given twice is refused", DuplicateAnchor, lambda: [GOOD.anchor, GOOD.anchor]),
)


@pytest.mark.parametrize("attack", ANCHORS, ids=str)
def test_what_is_no_anchor_is_refused(attack: Attack) -> None:
    assert attack.error is not None
    with pytest.raises(attack.error) as caught:
        AnchorSet.parse([ConfiguredAnchor(text) for text in attack.act()])
    assert type(caught.value) is attack.error
    check_text(str(caught.value))


@REGISTER.single(43, "a threshold over the number of anchors is refused", AnchorFormat)
def test_a_threshold_needs_as_many_anchors(attack: Attack, tmp_path: Path) -> None:
    with pytest.raises(AnchorFormat) as caught:
        AnchorSet.parse([ConfiguredAnchor(GOOD.anchor)], threshold=2)
    check_text(str(caught.value))
