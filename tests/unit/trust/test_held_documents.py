"""What a host keeps: it must be what was accepted last, and it is not dropped because time went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import (
    AkpolicyError,
    BundleExpired,
    CacheRolledBack,
    EpochMismatch,
    KeyNotAuthorised,
    KeyRevoked,
    RootExpired,
    RootMissing,
    ScopeMismatch,
)
from akpolicy.trust import Judge
from tests.simulators.org import BUNDLE_LIFETIME_S, ROOT_LIFETIME_S, delegation, role

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.trust import VerifiedManifest
    from tests.unit.trust.scene import Scene


@pytest.fixture
def rollback(scene: Scene) -> SignedEnvelope:
    """A rollback to the first version that the host has accepted."""
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, min_version=1))
    envelope = scene.org.rollback_envelope(scene.first)
    verified = scene.judge.judge_manifest(envelope, scene.now, original=scene.first)
    scene.judge.advance(scene.judge.judge_content(verified, scene.first_blob))
    return envelope


def held(scene: Scene, envelope: SignedEnvelope, original: SignedEnvelope | None = None) -> VerifiedManifest:
    return scene.judge.judge_manifest(envelope, scene.now, held=True, original=original)


def fresh(scene: Scene, envelope: SignedEnvelope, original: SignedEnvelope | None = None) -> VerifiedManifest:
    return scene.judge.judge_manifest(envelope, scene.now, original=original)


def turn(scene: Scene, **root: Any) -> None:
    """Let the host follow a rotation to a root with these fields."""
    scene.judge.accept_root(scene.judge.judge_root(scene.org.root_envelope(version=2, **root), scene.now))


def test_a_bundle_is_kept_past_its_own_the_roots_and_its_keys_end(scene: Scene) -> None:
    scene.clock.advance(3 * ROOT_LIFETIME_S)

    assert not held(scene, scene.first).fresh
    with pytest.raises(RootExpired):
        fresh(scene, scene.first)


def test_a_rollback_is_kept_past_its_own_the_roots_and_its_keys_end(scene: Scene, rollback: SignedEnvelope) -> None:
    scene.clock.advance(3 * ROOT_LIFETIME_S)

    kept = held(scene, rollback, scene.first)
    assert (kept.manifest.version, kept.fresh, kept.original) == (3, False, scene.first)
    with pytest.raises(RootExpired):
        fresh(scene, rollback, scene.first)


def test_a_rollback_is_kept_past_its_end_under_a_root_that_goes_on(scene: Scene, rollback: SignedEnvelope) -> None:
    scene.clock.advance(BUNDLE_LIFETIME_S - 1)
    assert not fresh(scene, rollback, scene.first).fresh
    scene.clock.advance(1)

    assert held(scene, rollback, scene.first).manifest.version == 3
    with pytest.raises(BundleExpired):
        fresh(scene, rollback, scene.first)


def test_what_is_kept_may_be_of_an_earlier_epoch_and_what_comes_may_not(scene: Scene, rollback: SignedEnvelope) -> None:
    turn(scene, epoch=2)

    assert held(scene, rollback, scene.first).manifest.epoch == 1
    with pytest.raises(EpochMismatch):
        fresh(scene, rollback, scene.first)


def test_an_accepted_rollback_is_judged_again_without_its_floor(scene: Scene, rollback: SignedEnvelope) -> None:
    # The floor of what came before it is gone with its mark.
    assert not fresh(scene, rollback, scene.first).fresh


def test_a_new_host_may_begin_with_a_rollback(scene: Scene, rollback: SignedEnvelope) -> None:
    scene.judge = Judge("acme", scene.org.anchors)
    scene.judge.trust_root(scene.root, scene.now)

    assert fresh(scene, rollback, scene.first).fresh


def test_what_a_revoked_key_signed_is_not_kept(scene: Scene, rollback: SignedEnvelope) -> None:
    roles = {"root": role(scene.org.root_signer), "bundle": [delegation("org/acme", scene.org.platform_signer)]}
    turn(scene, revoked={scene.org.bundle_signer.public_key.key_id: int(scene.now)}, roles=roles)

    with pytest.raises(AkpolicyError) as caught:
        held(scene, rollback, scene.first)
    # The root has no role for rollbacks any more; the bundle's signer is revoked.
    assert isinstance(caught.value, KeyNotAuthorised)
    with pytest.raises(KeyRevoked, match="is revoked"):
        held(scene, scene.first)


def test_nothing_is_kept_without_a_root(scene: Scene) -> None:
    scene.judge = Judge("acme", scene.org.anchors)

    with pytest.raises(RootMissing, match="so nothing that is kept can be"):
        held(scene, scene.first)


def test_it_is_said_what_was_accepted_last_instead(scene: Scene) -> None:
    other, _ = scene.org.bundle_envelope(scene.org.scope)
    with pytest.raises(CacheRolledBack, match=r"epoch 1 version 2 and is not the one that was accepted last \(1/1\)"):
        held(scene, other)
    scene.with_root()
    with pytest.raises(CacheRolledBack, match=r"epoch 1 version 1 .* accepted last \(none\)"):
        held(scene, scene.first)


def test_another_scope_than_the_one_that_was_asked_for_is_refused(scene: Scene, rollback: SignedEnvelope) -> None:
    for envelope, original in ((scene.first, None), (rollback, scene.first)):
        with pytest.raises(ScopeMismatch, match="bundle is for `org/acme`, but `global` was asked for"):
            scene.judge.judge_manifest(envelope, scene.now, expected_scope="global", original=original, held=True)


def test_it_is_said_what_nobody_may_sign(scene: Scene, rollback: SignedEnvelope) -> None:
    roles = {"root": role(scene.org.root_signer), "bundle": [], "rollback": []}
    turn(scene, roles=roles)

    with pytest.raises(KeyNotAuthorised, match="root lets nobody sign bundles for `org/acme`"):
        fresh(scene, scene.first)
    with pytest.raises(KeyNotAuthorised, match="root lets nobody sign rollbacks for `org/acme`"):
        fresh(scene, rollback, scene.first)


def test_it_is_said_for_which_scope_a_key_may_not_sign(scene: Scene) -> None:
    forged, _ = scene.org.bundle_envelope(scene.org.scope, signed_by=[scene.org.platform_signer])
    with pytest.raises(KeyNotAuthorised, match="no signing key may sign for the scope `org/acme`"):
        fresh(scene, forged)
    rollback = scene.org.rollback_envelope(scene.first, signed_by=[scene.org.platform_signer])
    with pytest.raises(KeyNotAuthorised, match="no signing key may sign for the scope `org/acme`"):
        fresh(scene, rollback, scene.first)
