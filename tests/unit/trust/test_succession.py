"""From one root to the next: who must sign it, and what it must not take back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import (
    AkpolicyError,
    EpochMismatch,
    Equivocation,
    FieldInvalid,
    KeyNotAuthorised,
    RootChainGap,
    RootChainTooLong,
    RootRollback,
    RootThresholdNew,
    RootThresholdOld,
    RootUnanchored,
    VersionJump,
)
from akpolicy.keys import AnchorSet
from akpolicy.limits import MAX_ROTATIONS, MAX_VERSION_JUMP
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import Judge
from tests.simulators.org import ConfiguredAnchor, role

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from tests.unit.trust.scene import Scene


def follow(scene: Scene, version: int = 2, **root: Any) -> SignedEnvelope:
    """Let the host follow a rotation and return the root."""
    envelope = scene.org.root_envelope(version=version, **root)
    scene.judge.accept_root(scene.judge.judge_root(envelope, scene.now))
    return envelope


def refused(scene: Scene, envelope: SignedEnvelope, error: type[AkpolicyError], says: str) -> None:
    before = scene.judge.root
    with pytest.raises(error, match=says) as caught:
        scene.judge.judge_root(envelope, scene.now)
    assert type(caught.value) is error
    assert scene.judge.root is before


def roles_of(scene: Scene, *root_keys: PrivateKeySigner, threshold: int = 1) -> dict[str, Any]:
    return {**scene.org.root_document()["roles"], "root": role(*root_keys, threshold=threshold)}


def test_the_old_and_the_new_root_role_must_sign(scene: Scene) -> None:
    fresh = PrivateKeySigner.generate()
    changes: dict[str, Any] = {"version": 2, "signers": [fresh], "roles": roles_of(scene, fresh)}

    new_only = scene.org.root_envelope(**changes, signed_by=[fresh])
    refused(scene, new_only, RootThresholdOld, r"too few root keys of the trusted root \(version 1\) .*; 1 must")
    old_only = scene.org.root_envelope(**changes)
    refused(scene, old_only, RootThresholdNew, "too few root keys of root version 2 itself signed it")
    follow(scene, **{**changes, "signed_by": [scene.org.root_signer, fresh]})
    assert scene.judge.check_root(scene.now).document.version == 2


def test_each_threshold_is_that_of_its_own_root(scene: Scene) -> None:
    fresh = PrivateKeySigner.generate()
    both = [scene.org.root_signer, fresh]
    two: dict[str, Any] = {"signers": [fresh], "roles": roles_of(scene, scene.org.root_signer, fresh, threshold=2)}
    refused(scene, scene.org.root_envelope(version=2, **two), RootThresholdNew, "root version 2")
    follow(scene, signed_by=both, **two)

    refused(scene, scene.org.root_envelope(version=3), RootThresholdOld, r"\(version 2\) .*; 2 must")
    follow(scene, 3, signed_by=both, signers=[fresh])


def test_what_does_not_come_next_is_told_apart(scene: Scene) -> None:
    second = follow(scene)
    follow(scene, 3)

    refused(scene, scene.root, RootRollback, "root is one that came before the trusted version 3")
    refused(scene, second, RootRollback, "root is one that came before the trusted version 3")
    other: dict[str, Any] = {"expires_at": int(scene.now) + 1000}
    refused(scene, scene.org.root_envelope(version=2, **other), RootRollback, "version 2, older than the trusted 3")
    refused(scene, scene.org.root_envelope(version=3, **other), Equivocation, "another root with version 3")
    gap = "root has version 5, but 3 is trusted; the roots between are missing"
    refused(scene, scene.org.root_envelope(version=5), RootChainGap, gap)


def test_an_epoch_may_rise_and_does_not_go_back(scene: Scene) -> None:
    follow(scene, epoch=7)

    lower = scene.org.root_envelope(version=3, epoch=6)
    refused(scene, lower, EpochMismatch, "root version 3 lowers the epoch from 7 to 6")
    follow(scene, 3, epoch=7)


def test_a_revocation_stays_as_it_is(scene: Scene) -> None:
    gone = PrivateKeySigner.generate().public_key.key_id
    follow(scene, revoked={gone: 5})

    for revoked in ({}, {gone: 6}, {"0" * 64: 5}):
        undone = scene.org.root_envelope(version=3, revoked=revoked)
        refused(scene, undone, FieldInvalid, f"root version 3 undoes the revocation of the key {gone}")
    follow(scene, 3, revoked={gone: 5, "0" * 64: 9})


def test_so_many_rotations_are_followed_at_once_and_the_next_after_a_pause(scene: Scene) -> None:
    for version in range(2, MAX_ROTATIONS + 2):
        follow(scene, version)
    ahead = scene.org.root_envelope(version=MAX_ROTATIONS + 2)

    refused(scene, ahead, RootChainTooLong, f"more than {MAX_ROTATIONS} rotations at once")
    scene.judge.begin_walk()
    assert scene.judge.judge_root(ahead, scene.now).document.version == MAX_ROTATIONS + 2


def test_a_first_root_may_have_any_version_up_to_the_greatest_jump(scene: Scene) -> None:
    for version, allowed in ((MAX_VERSION_JUMP, True), (MAX_VERSION_JUMP + 1, False)):
        scene.judge = Judge("acme", scene.org.anchors)
        envelope = scene.org.root_envelope(version=version)
        if allowed:
            assert scene.judge.judge_root(envelope, scene.now).document.version == version
        else:
            refused(scene, envelope, VersionJump, f"first root has version {version}, more than")


def test_an_anchor_counts_from_its_first_second_on(scene: Scene) -> None:
    for begins, counts in ((int(scene.now), True), (int(scene.now) + 1, False)):
        anchors = AnchorSet.parse([ConfiguredAnchor(scene.org.anchor, valid_from=begins)])
        scene.judge = Judge("acme", anchors)
        if counts:
            assert scene.judge.judge_root(scene.root, scene.now).document.version == 1
        else:
            refused(scene, scene.root, RootUnanchored, "root of `acme` is signed by 0 of 1 needed trust anchors")


def test_it_is_said_that_the_root_role_did_not_sign(scene: Scene) -> None:
    fresh = PrivateKeySigner.generate()
    scene.judge = Judge("acme", scene.org.anchors)
    envelope = scene.org.root_envelope(signers=[fresh], roles=roles_of(scene, fresh))

    refused(scene, envelope, KeyNotAuthorised, "no signing key may sign for the root role")
