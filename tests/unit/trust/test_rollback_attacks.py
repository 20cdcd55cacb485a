"""Rollbacks that restore something else than they say, more than they may, or longer than it may live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import RollbackNotAuthorised
from tests.simulators.org import BUNDLE_LIFETIME_S

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from tests.unit.trust.scene import Scene


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """A host that enforces version 2, from which one may go back to version 1."""
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, min_version=1))
    return scene


def refused(scene: Scene, rollback: SignedEnvelope, original: SignedEnvelope | None, says: str) -> None:
    """Assert that a rollback is refused with this text, and that no mark moves."""
    before = scene.judge.marks
    with pytest.raises(RollbackNotAuthorised) as caught:
        scene.judge.judge_manifest(rollback, scene.now, original=original)
    assert caught.value.message == f"rollback of `org/acme` {says}"
    assert scene.judge.marks == before


def rollback(scene: Scene, original: SignedEnvelope | None = None, **fields: Any) -> SignedEnvelope:
    return scene.org.rollback_envelope(original or scene.first, version=3, **fields)


def test_a_rollback_comes_with_the_manifest_that_it_names(scene: Scene) -> None:
    other, _ = scene.org.bundle_envelope(scene.org.scope)

    refused(scene, rollback(scene), None, "comes without the manifest that it restores")
    refused(scene, rollback(scene), other, "comes with another manifest than the one that it restores")


def test_a_rollback_restores_a_manifest_of_its_own_scope(scene: Scene) -> None:
    foreign, _ = scene.org.bundle_envelope("global")
    forged = rollback(scene, foreign, scope="org/acme")

    refused(scene, forged, foreign, "to version 3 restores a manifest of `global`")


def test_a_rollback_names_epoch_and_version_of_its_original(scene: Scene) -> None:
    restores = {"version": 2, "digest": scene.first.digest().hex()}

    says = "to version 3 names the original 1/2, which says it is 1/1"
    refused(scene, rollback(scene, restores=restores), scene.first, says)
    says = "to version 3 names the original 2/1, which says it is 1/1"
    refused(scene, rollback(scene, epoch=2), scene.first, says)


def test_a_rollback_brings_the_content_of_its_original_and_a_deletion_has_none(scene: Scene) -> None:
    content = scene.org.rollback_document(scene.first)["content"]
    says = "to version 3 brings another content than the original's"

    refused(scene, rollback(scene, content={**content, "digest": "0" * 64}), scene.first, says)
    deletion = scene.org.deletion_envelope(scene.org.scope, version=1)
    refused(scene, rollback(scene, deletion, content=content), deletion, says)


def test_a_rollback_does_not_outlive_its_original(scene: Scene) -> None:
    end = int(scene.now) + BUNDLE_LIFETIME_S

    says = f"to version 3 would live until {end + 1}, longer than the original ({end})"
    refused(scene, rollback(scene, expires_at=end + 1), scene.first, says)
    assert scene.judge.judge_manifest(rollback(scene, expires_at=end), scene.now, original=scene.first).fresh


def test_a_rollback_goes_back_as_far_as_what_is_enforced_permits(scene: Scene) -> None:
    third, blob = scene.org.bundle_envelope(scene.org.scope, min_version=2, version=3)
    scene.accept(third, blob)

    forged = scene.org.rollback_envelope(scene.first, version=4)
    refused(scene, forged, scene.first, "to version 4 restores version 1; what is enforced permits 2 on")


def test_a_floor_is_one_of_its_epoch(scene: Scene) -> None:
    floor, blob = scene.org.bundle_envelope(scene.org.scope, min_version=3, version=3)
    scene.accept(floor, blob)
    scene.judge.accept_root(scene.judge.judge_root(scene.org.root_envelope(version=2, epoch=2), scene.now))
    original, blob = scene.org.bundle_envelope(scene.org.scope, epoch=2, version=1)

    restored = scene.org.rollback_envelope(original, version=2)
    assert scene.judge.judge_manifest(restored, scene.now, original=original).fresh
