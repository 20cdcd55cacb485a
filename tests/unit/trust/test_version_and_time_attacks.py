"""Attacks by order and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.errors import (
    BundleExpired,
    CacheRolledBack,
    EpochMismatch,
    Equivocation,
    IssuedInFuture,
    LifetimeTooLong,
    NotYetValid,
    RollbackDetected,
    VersionJump,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_BUNDLE_LIFETIME_S, MAX_VERSION_JUMP
from akpolicy.trust import Judge, Mark
from tests.simulators.org import BUNDLE_LIFETIME_S, DAY

if TYPE_CHECKING:
    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene


def restarted(scene: Scene) -> Scene:
    """Restart the host: what it remembers is its marks."""
    marks = scene.judge.marks
    scene.judge = Judge("acme", scene.org.anchors, marks=marks)
    scene.judge.trust_root(scene.root, scene.now)
    return scene


# --- versions -------------------------------------------------------------------------------------------------------


def test_an_older_bundle_is_refused(scene: Scene) -> None:
    old = (scene.first, scene.first_blob)
    scene.accept(*scene.org.bundle_envelope(scene.org.scope))
    scene.first, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.accept(scene.first, blob)
    scene.refuses(RollbackDetected, *old)


def test_an_older_bundle_is_refused_after_a_restart(scene: Scene) -> None:
    old = (scene.first, scene.first_blob)
    scene.first, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.accept(scene.first, blob)
    restarted(scene).refuses(RollbackDetected, *old)


def test_another_bundle_of_the_same_version_is_refused(scene: Scene) -> None:
    other = {"forbid-all": "forbid (principal, action, resource);"}
    scene.refuses(Equivocation, *scene.org.bundle_envelope(scene.org.scope, other, version=1))


def test_the_same_policies_in_another_manifest_of_the_version_are_refused(scene: Scene) -> None:
    again = scene.org.bundle_envelope(scene.org.scope, version=1, expires_at=int(scene.now) + 1000)
    scene.refuses(Equivocation, *again)


def test_a_version_too_far_ahead_is_refused(scene: Scene) -> None:
    scene.refuses(VersionJump, *scene.org.bundle_envelope(scene.org.scope, version=1 + MAX_VERSION_JUMP + 1))
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, version=1 + MAX_VERSION_JUMP))


def test_a_first_version_too_far_ahead_is_refused(scene: Scene) -> None:
    scene.refuses(VersionJump, *scene.org.bundle_envelope("global", version=MAX_VERSION_JUMP + 1))


@pytest.mark.parametrize("epoch", [2, 3], ids=["next epoch", "far epoch"])
def test_a_bundle_of_another_epoch_than_the_roots_is_refused(scene: Scene, epoch: int) -> None:
    scene.refuses(EpochMismatch, *scene.org.bundle_envelope(scene.org.scope, epoch=epoch))


def test_a_bundle_of_an_old_epoch_is_refused(scene: Scene) -> None:
    marks = {"org/acme": Mark(1, 90, "0" * 64, 1)}
    scene.judge = Judge("acme", scene.org.anchors, marks=marks)
    scene.trust(scene.judge, epoch=2)
    scene.refuses(EpochMismatch, *scene.org.bundle_envelope(scene.org.scope, version=91))
    # The new epoch recovers a scope whose versions ran ahead.
    bundle = scene.accept(*scene.org.bundle_envelope(scene.org.scope, version=1, epoch=2, min_version=1))
    assert scene.judge.marks["org/acme"] == Mark(2, 1, bundle.digest, 1, previous_digest="0" * 64)


def test_a_root_of_a_lower_epoch_does_not_bring_old_bundles_back(scene: Scene) -> None:
    scene.judge = Judge("acme", scene.org.anchors, marks={"org/acme": Mark(2, 1, "0" * 64, 1)})
    scene.trust(scene.judge)
    scene.refuses(RollbackDetected, *scene.org.bundle_envelope(scene.org.scope, version=5))


def test_the_same_bundle_again_changes_nothing(scene: Scene) -> None:
    before = scene.judge.marks
    verified = scene.judge.judge_manifest(scene.first, scene.now)
    assert not verified.fresh
    assert scene.judge.mark_after(verified) == before["org/acme"]
    scene.accept(scene.first, scene.first_blob)
    assert scene.judge.marks == before


def test_a_deleted_scope_does_not_come_back_by_an_old_bundle(scene: Scene) -> None:
    old = (scene.first, scene.first_blob)
    scene.first = scene.org.deletion_envelope(scene.org.scope)
    deleted = scene.accept(scene.first, None)
    assert deleted.content is None
    scene.refuses(RollbackDetected, *old)
    restarted(scene).refuses(RollbackDetected, *old)
    scene.accept(*scene.org.bundle_envelope(scene.org.scope))


def test_scopes_have_marks_of_their_own(scene: Scene) -> None:
    scene.accept(*scene.org.bundle_envelope("global", version=40))
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, version=2))
    assert {s: m.version for s, m in scene.judge.marks.items()} == {"global": 40, "org/acme": 2}


def test_judging_moves_no_mark(scene: Scene) -> None:
    before = scene.judge.marks
    scene.judged(*scene.org.bundle_envelope(scene.org.scope))
    assert scene.judge.marks == before


def test_a_mark_goes_from_digest_to_digest(scene: Scene) -> None:
    second = scene.judged(*scene.org.bundle_envelope(scene.org.scope))
    mark = scene.judge.mark_after(second)
    assert mark == Mark(1, 2, second.digest, 1, previous_digest=scene.first.digest().hex())
    scene.judge.advance(second)
    assert scene.judge.marks["org/acme"] == mark


def test_a_mark_does_not_go_back_when_judged_bundles_are_accepted_in_another_order(scene: Scene) -> None:
    second = scene.judged(*scene.org.bundle_envelope(scene.org.scope))
    third = scene.judged(*scene.org.bundle_envelope(scene.org.scope))
    scene.judge.advance(third)
    marks = scene.judge.marks
    with pytest.raises(RollbackDetected):
        scene.judge.mark_after(second)
    with pytest.raises(RollbackDetected):
        scene.judge.advance(second)
    assert scene.judge.marks == marks


def test_two_judged_bundles_of_one_version_are_not_both_accepted(scene: Scene) -> None:
    one = scene.judged(*scene.org.bundle_envelope(scene.org.scope, version=2))
    other = scene.judged(*scene.org.bundle_envelope(scene.org.scope, version=2, expires_at=int(scene.now) + DAY))
    scene.judge.advance(one)
    with pytest.raises(Equivocation):
        scene.judge.advance(other)


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_what_is_kept_must_be_what_was_accepted_last(scene: Scene) -> None:
    old = (scene.first, scene.first_blob)
    scene.first, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.accept(scene.first, blob)
    restarted(scene).refuses(CacheRolledBack, *old, held=True)
    scene.refuses(CacheRolledBack, *scene.org.bundle_envelope(scene.org.scope), held=True)
    scene.judged(scene.first, blob, held=True)


def test_what_is_kept_needs_a_mark(scene: Scene) -> None:
    scene.with_root()
    scene.refuses(CacheRolledBack, scene.first, scene.first_blob, held=True)


def test_what_is_kept_may_have_expired_since(scene: Scene) -> None:
    scene.clock.advance(BUNDLE_LIFETIME_S)
    assert scene.judged(scene.first, scene.first_blob, held=True).manifest.version == 1
    with pytest.raises(BundleExpired):
        scene.judged(scene.first, scene.first_blob)


# --- time -----------------------------------------------------------------------------------------------------------

TIMES: list[tuple[str, type[AkpolicyError], dict[str, int]]] = [
    ("expired this second", BundleExpired, {"issued_at": -10, "not_before": -10, "expires_at": 0}),
    ("expired long ago", BundleExpired, {"issued_at": -9000, "not_before": -9000, "expires_at": -8000}),
    ("issued in 61 s", IssuedInFuture, {"issued_at": CLOCK_SKEW_S + 1}),
    ("issued in a year", IssuedInFuture, {"issued_at": 365 * DAY, "expires_at": 366 * DAY}),
    ("valid in 61 s", NotYetValid, {"not_before": CLOCK_SKEW_S + 1}),
    ("lives too long", LifetimeTooLong, {"expires_at": MAX_BUNDLE_LIFETIME_S + 1}),
    ("issued early to live long", LifetimeTooLong, {"issued_at": -1, "expires_at": MAX_BUNDLE_LIFETIME_S}),
]


@pytest.mark.parametrize(("error", "offsets"), [c[1:] for c in TIMES], ids=[c[0] for c in TIMES])
def test_a_bundle_out_of_its_time_is_refused(scene: Scene, error: type[AkpolicyError], offsets: dict[str, int]) -> None:
    scene.refuses(error, *scene.org.bundle_envelope(scene.org.scope, **at(scene, offsets)))


@pytest.mark.parametrize(
    "offsets",
    [{"issued_at": 59, "not_before": 59}, {"issued_at": 60, "not_before": 60}, {"issued_at": -60, "not_before": -60}],
    ids=["59 s ahead", "60 s ahead", "60 s behind"],
)
def test_small_differences_of_clocks_are_tolerated(scene: Scene, offsets: dict[str, int]) -> None:
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, **at(scene, offsets)))


def test_the_longest_lifetime_is_allowed(scene: Scene) -> None:
    offsets = {"expires_at": MAX_BUNDLE_LIFETIME_S}
    scene.accept(*scene.org.bundle_envelope(scene.org.scope, **at(scene, offsets)))


def at(scene: Scene, offsets: dict[str, int]) -> dict[str, Any]:
    return {name: int(scene.now) + offset for name, offset in offsets.items()}
