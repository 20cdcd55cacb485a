"""Attacks by scope, org, order and rollback (A-58 to A-76)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from akpolicy.bundle import Manifest
from akpolicy.errors import (
    EpochMismatch,
    Equivocation,
    OrgMismatch,
    RollbackDetected,
    RollbackNotAuthorised,
    ScopeMismatch,
    VersionJump,
)
from akpolicy.limits import MAX_VERSION_JUMP
from akpolicy.strict_json import load
from tests.attacks.stage import FORBID, ORG, PERMIT, REGISTER, TEAM, Attack, Stage, bundle_of, root_of
from tests.simulators.office import bundle_messages, heartbeat_message
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope

OTHER = {"forbid-all": '@id("forbid-all") forbid (principal, action, resource);'}


# --- scope and org ----------------------------------------------------------------------------------------------------


def with_schema(stage: Stage) -> Any:
    blob = json.dumps({"policies": [{"id": "p", "text": PERMIT["permit-all"]}], "schema": "entity User;"}).encode()
    return stage.org.bundle_envelope(TEAM, blob)


SCOPES = REGISTER.table(
    (58, "another org's scope is refused", ScopeMismatch, lambda s: s.org.bundle_envelope("org/globex", FORBID)),
    (58, "an org of a longer name is another", ScopeMismatch, lambda s: s.org.bundle_envelope("org/acme2", FORBID)),
    (58, "another org's team is refused", ScopeMismatch, lambda s: s.org.bundle_envelope("org/globex/team/a", FORBID)),
    (58, "another org's user is refused", ScopeMismatch, lambda s: s.org.bundle_envelope("org/globex/user/a", FORBID)),
    (59, "a schema in a team's layer is refused", ScopeMismatch, with_schema),
)


@pytest.mark.parametrize("attack", SCOPES, ids=str)
def test_a_bundle_of_another_scope_is_refused(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, bundle_of(*attack.act(stage)))


def test_a_teams_bundle_does_not_pass_for_the_orgs(stage: Stage) -> None:
    before = stage.host.digests
    envelope, blob = stage.org.bundle_envelope(TEAM, OTHER)
    # Sent as if it were of the org; what was signed counts.
    stage.host.hear(*bundle_of(envelope, blob))
    assert stage.host.digests == {**before, TEAM: envelope.digest().hex()}
    stage.assert_decides()


def globex(stage: Stage) -> OrgSimulator:
    """Return another org with the very same keys, because one operator has two orgs."""
    other = OrgSimulator("globex", stage.host.clock)
    other.root_signer, other.heartbeat_signer = stage.org.root_signer, stage.org.heartbeat_signer
    return other


@REGISTER.single(60, "another org's heartbeat is refused", OrgMismatch)
def test_another_orgs_heartbeat_is_refused(stage: Stage, attack: Attack) -> None:
    current = [held.envelope for held in stage.office.current.values()]
    beat = globex(stage).heartbeat_envelope(stage.office.root, current, seq=stage.office.seq + 1)
    stage.refuses(attack, [heartbeat_message(*beat)])


@REGISTER.single(61, "another org's root is refused", OrgMismatch)
def test_another_orgs_root_is_refused(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, root_of(globex(stage).root_envelope(version=2)))


# --- versions ---------------------------------------------------------------------------------------------------------


VERSIONS = REGISTER.table(
    (62, "an older bundle is refused", RollbackDetected, lambda s: s.old[ORG]),
    (64, "another bundle of the same version is refused", Equivocation, lambda s: made(s, OTHER, version=2)),
    (
        64,
        "the same policies in another manifest of the version are refused",
        Equivocation,
        lambda s: made(s, FORBID, version=2, expires_at=int(s.host.clock.now()) + 1000),
    ),
    (65, "a version too far ahead is refused", VersionJump, lambda s: made(s, FORBID, version=3 + MAX_VERSION_JUMP)),
    (66, "a bundle of a later epoch than the root's is refused", EpochMismatch, lambda s: made(s, FORBID, epoch=2)),
)


def made(stage: Stage, policies: dict[str, str], **fields: Any) -> tuple[SignedEnvelope, bytes]:
    return stage.org.bundle_envelope(ORG, policies, **{"min_version": 1, **fields})


@pytest.mark.parametrize("attack", VERSIONS, ids=str)
def test_what_does_not_come_next_is_refused(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, bundle_of(*attack.act(stage)))


@REGISTER.single(63, "an older bundle is refused after a restart", RollbackDetected)
def test_an_older_bundle_is_refused_after_a_restart(stage: Stage, attack: Attack) -> None:
    stage.host = stage.host.restart()
    stage.refuses(attack, bundle_of(*stage.old[ORG]))


@REGISTER.single(64, "both of two bundles with one version are kept as evidence", Equivocation)
def test_two_truths_are_kept_as_evidence(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, bundle_of(*made(stage, OTHER, version=2)))
    assert stage.host.updater.evidence_count == 2


@REGISTER.single(66, "a bundle of an old epoch is refused", EpochMismatch)
def test_a_new_epoch_ends_the_old_one(stage: Stage, attack: Attack) -> None:
    ahead = made(stage, FORBID, version=MAX_VERSION_JUMP)
    stage.host.hear(*bundle_of(*ahead))
    root = stage.office.add_root(stage.org.root_envelope(version=2, epoch=2))
    stage.host.hear(*root_of(root))
    # What was enforced stays enforced until something of the new epoch comes.
    assert stage.host.versions[ORG] == MAX_VERSION_JUMP
    stage.refuses(attack, bundle_of(*made(stage, OTHER, version=MAX_VERSION_JUMP + 1)))
    stage.host.hear(*bundle_of(*made(stage, FORBID, version=1, epoch=2)))
    assert stage.host.versions[ORG] == 1
    stage.assert_decides()


@REGISTER.single(67, "a root that lowers the epoch is refused", EpochMismatch)
def test_a_root_does_not_lower_the_epoch(stage: Stage, attack: Attack) -> None:
    stage.host.hear(*root_of(stage.org.root_envelope(version=2, epoch=2)))
    stage.refuses(attack, root_of(stage.org.root_envelope(version=3, epoch=1)))


@REGISTER.single(68, "the same bundle again changes nothing", None)
def test_the_same_bundle_again_is_no_attack(stage: Stage, attack: Attack) -> None:
    before = stage.facts()
    stage.host.hear(*stage.office.bundle(ORG), *stage.office.bundle("global"))
    assert stage.host.nacks == []
    assert stage.facts() == before
    stage.assert_decides()


@REGISTER.single(69, "a deleted scope does not come back by an old bundle", RollbackDetected)
def test_a_deletion_is_not_undone_by_an_old_bundle(stage: Stage, attack: Attack) -> None:
    stage.office.hold(ORG, stage.org.deletion_envelope(ORG), None)
    stage.host.hear(*stage.office.bundle(ORG)).beat()
    assert stage.host.versions == {"global": 2}
    stage.refuses(attack, bundle_of(*stage.old[ORG]))


# --- rollbacks --------------------------------------------------------------------------------------------------------


def other_content(stage: Stage) -> Any:
    """Name the original, and bring what was never signed for it."""
    original, _ = stage.old[ORG]
    envelope, blob = stage.org.bundle_envelope(ORG, OTHER, version=9)
    content = json.loads(envelope.payload)["content"]
    return stage.org.rollback_envelope(original, version=3, content=content), blob, original


def below_the_floor(stage: Stage) -> Any:
    """Go back further than the enforced version permits."""
    envelope, blob = stage.org.bundle_envelope(ORG, FORBID, version=3, min_version=2)
    stage.host.hear(*bundle_of(envelope, blob))
    stage.office.hold(ORG, envelope, blob)
    original, old_blob = stage.old[ORG]
    return stage.org.rollback_envelope(original), old_blob, original


def longer_life(stage: Stage) -> Any:
    original, blob = stage.old[ORG]
    expires_at = load(original.payload, Manifest).expires_at + 1
    return stage.org.rollback_envelope(original, expires_at=expires_at), blob, original


def without_original(stage: Stage) -> Any:
    original, blob = stage.old[ORG]
    return stage.org.rollback_envelope(original), blob, None


def with_another_original(stage: Stage) -> Any:
    original, blob = stage.old[ORG]
    return stage.org.rollback_envelope(original), blob, stage.office.current[ORG].envelope


def of_another_scope(stage: Stage) -> Any:
    """Name an original that is genuine, and another scope's."""
    original, blob = stage.old["global"]
    envelope = stage.org.rollback_envelope(original, scope=ORG, version=3)
    return envelope, blob, original


def under_another_manifest(stage: Stage) -> Any:
    """Bring the same content under a manifest that is signed well and is not the one that is named."""
    original, blob = stage.old[ORG]
    again, _ = stage.org.bundle_envelope(ORG, FORBID, version=1, expires_at=int(stage.host.clock.now()) + 900)
    return stage.org.rollback_envelope(original, version=3), blob, again


ROLLBACKS = REGISTER.table(
    (70, "a rollback with new content is refused", RollbackNotAuthorised, other_content),
    (71, "a rollback below the floor is refused", RollbackNotAuthorised, below_the_floor),
    (72, "a rollback that lives longer than its original is refused", RollbackNotAuthorised, longer_life),
    (73, "a rollback without its original is refused", RollbackNotAuthorised, without_original),
    (74, "a rollback with another original is refused", RollbackNotAuthorised, with_another_original),
    (75, "a rollback to another scope's original is refused", RollbackNotAuthorised, of_another_scope),
    (76, "the same content under another manifest is refused", RollbackNotAuthorised, under_another_manifest),
)


@pytest.mark.parametrize("attack", ROLLBACKS, ids=str)
def test_a_rollback_restores_what_was_signed_and_nothing_else(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, bundle_of(*attack.act(stage)))


def test_a_right_rollback_takes_effect_as_a_newer_version(stage: Stage) -> None:
    original, blob = stage.old[ORG]
    stage.office.hold(ORG, stage.org.rollback_envelope(original), blob, original)
    stage.host.hear(*stage.office.bundle(ORG)).beat()
    assert stage.host.nacks == []
    assert stage.host.versions[ORG] == 3
    stage.assert_decides()
    stage.assert_survives_restart(stage.facts())


def test_a_rollback_can_be_sent_without_content_that_is_held(stage: Stage) -> None:
    original, blob = stage.old[ORG]
    stage.host.hear(*bundle_messages(stage.org.rollback_envelope(original), blob, original=original))
    again = stage.org.rollback_envelope(original, version=4)
    held = stage.host.new_session().hello().hello.held_blobs
    stage.host.hear(*bundle_messages(again, blob, original=original, held_blobs=held))
    assert stage.host.nacks == []
    assert stage.host.versions[ORG] == 4
