"""Rollbacks: what they restore, how far back they go, how long they live, and what hosts make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    IdempotencyKeyReused,
    InvalidField,
    OrgNotFound,
    PermissionDenied,
    RevisionNotFound,
    RollbackNotAuthorised,
    SignersMissing,
    TrustError,
    VersionConflict,
)
from akpolicy.scope import GLOBAL
from akpolicy_server.orders import RollbackOrder
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.revisions import RevisionKind
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower, current_root, next_root, replace_key, with_role
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from akpolicy_server.publisher import Published
    from tests.unit.server.conftest import Core

ACME = "org/acme"
DAY = 86_400


def publish(core: Core, *ids: str, scope: str = ACME, **conditions: object) -> None:
    for policy_id in ids:
        core.publisher.publish(core.admin, order(scope, policy(policy_id), **conditions))


def roll_back(core: Core, to_version: int = 0, scope: str = ACME, **conditions: object) -> Published:
    return core.rollbacks.roll_back(core.admin, RollbackOrder(scope, to_version, **conditions))  # type: ignore[arg-type]


def test_a_rollback_restores_the_content_before_the_current_one(core: Core) -> None:
    publish(core, "a", "b")
    host = Follower(core)
    host.follow()
    core.announced.clear()
    revision = roll_back(core, message="b was wrong").revision
    assert (revision.version, revision.kind, revision.restores_version) == (3, RevisionKind.ROLLBACK, 1)
    assert (revision.message, revision.published_by) == ("b was wrong", core.admin.key_id)
    assert revision.envelope.payload_type == PayloadType.ROLLBACK
    assert revision.original is not None
    host.follow()
    assert host.policies(ACME) == ["a"]
    assert core.announced == ["acme"]
    # A host that never had anything takes it too.
    Follower(core).follow()


def test_the_content_before_is_another_one_however_often_it_was_published(core: Core) -> None:
    publish(core, "a", "b", "b")
    with pytest.raises(RollbackNotAuthorised, match="permits 2 on"):
        roll_back(core)
    publish(core, "c")
    assert roll_back(core).revision.restores_version == 3


def test_back_and_forth_and_not_back_again(core: Core) -> None:
    publish(core, "a", "b")
    host = Follower(core)
    for expected in ("a", "b"):
        roll_back(core)
        host.follow()
        assert host.policies(ACME) == [expected]
    # A host that joins now would refuse to go back to `a`: all that it knows of is `b`.
    late = Follower(core)
    late.follow()
    with pytest.raises(RollbackNotAuthorised, match="permits 2 on"):
        roll_back(core)
    publish(core, "c")
    assert roll_back(core).revision.restores_version == 2
    host.follow()
    late.follow()


def test_a_rollback_to_a_rollback_restores_what_that_restored(core: Core) -> None:
    publish(core, "a", "b")
    roll_back(core)
    publish(core, "c")
    revision = roll_back(core, 3).revision
    assert revision.restores_version == 1
    with pytest.raises(InvalidField, match=r"version 5 .* is the current one"):
        roll_back(core, 5)


def test_hosts_decide_how_far_back_it_goes(core: Core) -> None:
    publish(core, "a", "b", "c")
    assert roll_back(core, 2, dry_run=True).revision.restores_version == 2
    with pytest.raises(RollbackNotAuthorised, match=r"hosts of the org `acme` would refuse it.*permits 2 on"):
        roll_back(core, 1)
    publish(core, "d", no_rollback=True)
    with pytest.raises(RollbackNotAuthorised):
        roll_back(core)
    assert view_of(core).revisions[ACME].version == 4


def test_a_rollback_goes_back_no_further_than_what_it_restored(core: Core) -> None:
    publish(core, "a", "b", "c")
    assert roll_back(core).revision.min_version == 2
    with pytest.raises(RollbackNotAuthorised):
        roll_back(core, 1)


def test_after_a_rollback_the_next_publish_can_be_rolled_back_to_what_that_restored(core: Core) -> None:
    publish(core, "a", "b")
    roll_back(core)
    publish(core, "c")
    host = Follower(core)
    host.follow()
    assert roll_back(core).revision.restores_version == 1
    host.follow()
    assert host.policies(ACME) == ["a"]


def test_it_lives_no_longer_than_what_it_restores(core: Core) -> None:
    publish(core, "a", lifetime_s=10 * DAY)
    publish(core, "b")
    core.clock.advance(4 * DAY)
    revision = roll_back(core).revision
    assert revision.expires_at - revision.issued_at == 6 * DAY
    publish(core, "c")
    core.clock.advance(7 * DAY)
    publish(core, "d", lifetime_s=DAY)
    Follower(core).follow()


def test_what_has_expired_is_not_restored(core: Core) -> None:
    publish(core, "a", lifetime_s=DAY)
    publish(core, "b")
    core.clock.advance(DAY)
    with pytest.raises(RollbackNotAuthorised, match=r"version 1 .* expired at .*publish its policies again"):
        roll_back(core)


def test_a_default_life_is_that_of_a_publish(core: Core) -> None:
    publish(core, "a", lifetime_s=300 * DAY)
    publish(core, "b")
    revision = roll_back(core).revision
    assert revision.expires_at - revision.issued_at == 30 * DAY
    # It is renewed as what it restores was meant to live.
    assert revision.lifetime_s == 300 * DAY


def test_conditions_are_those_of_a_publish(core: Core) -> None:
    publish(core, "a", "b")
    with pytest.raises(VersionConflict) as caught:
        roll_back(core, expected_version=1)
    assert caught.value.current == 2
    first = roll_back(core, expected_version=2, idempotency_key="k")
    again = roll_back(core, expected_version=2, idempotency_key="k")
    assert (first.repeated, again.repeated, again.revision) == (False, True, first.revision)
    with pytest.raises(IdempotencyKeyReused):
        roll_back(core, 1, idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused):
        publish(core, "c", idempotency_key="k")
    for wrong in ({"idempotency_key": "\n"}, {"message": "x" * 1001}, {"expected_version": 2**63}):
        with pytest.raises(InvalidField):
            roll_back(core, **wrong)
    with pytest.raises(InvalidField):
        roll_back(core, 2**63)


def test_a_dry_run_changes_nothing(core: Core) -> None:
    publish(core, "a", "b")
    before = view_of(core)
    core.announced.clear()
    revision = roll_back(core, dry_run=True, idempotency_key="k").revision
    assert (revision.version, revision.restores_version) == (3, 1)
    assert view_of(core) == before
    assert core.announced == []
    assert not roll_back(core, idempotency_key="k").repeated


def test_there_must_be_something_to_go_back_to(core: Core) -> None:
    with pytest.raises(RevisionNotFound, match="nothing published"):
        roll_back(core)
    publish(core, "a")
    for version in (0, 7):
        with pytest.raises(RevisionNotFound, match="publish the policies instead"):
            roll_back(core, version)
    with pytest.raises(OrgNotFound):
        roll_back(core, scope="org/nobody")
    with pytest.raises(PermissionDenied):
        core.rollbacks.roll_back(core.publisher_of("globex"), RollbackOrder(ACME))


def test_without_a_rollback_key_it_is_said_what_to_do(core: Core) -> None:
    publish(core, "a", "b")
    role = current_root(core).rollback_role(ACME)
    assert role is not None
    core.vault.path(role.keys[0]).unlink()
    with pytest.raises(SignersMissing, match="publish the policies again"):
        roll_back(core)
    core.roots.publish(core.admin, "acme", next_root(core, roles=with_role(core, "acme", "rollback", ACME)))
    with pytest.raises(TrustError, match="lets nobody sign rollbacks"):
        roll_back(core)


def test_a_rollback_whose_original_lost_its_key_is_signed_anew_as_a_bundle(core: Core) -> None:
    publish(core, "a", "b")
    roll_back(core)
    host = Follower(core)
    host.follow()
    _, root = replace_key(core, "acme", KeyRole.BUNDLE, ACME)
    [anew] = core.roots.publish(core.admin, "acme", root).signed_anew
    assert (anew.kind, anew.original) == (RevisionKind.RENEWAL, None)
    host.follow()
    assert host.policies(ACME) == ["a"]


def test_a_rollback_of_global_reaches_every_epoch(core: Core) -> None:
    publish(core, "a", "b", scope=GLOBAL)
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    acme, globex = Follower(core), Follower(core, "globex")
    publish(core, "c", scope=GLOBAL)
    acme.follow()
    globex.follow()
    revision = roll_back(core, scope=GLOBAL).revision
    assert (revision.epoch, revision.version, revision.restores_version) == (2, 3, 1)
    assert globex.follow().revisions[GLOBAL].kind is RevisionKind.ROLLBACK
    acme.follow()
    assert acme.policies(GLOBAL) == globex.policies(GLOBAL) == ["b"]


def test_an_epoch_that_never_had_the_content_gets_it_as_a_bundle(core: Core) -> None:
    publish(core, "a", scope=GLOBAL)
    for org in ("acme", "globex"):
        core.roots.publish(core.admin, org, next_root(core, org, epoch=2))
    publish(core, "b", "c", scope=GLOBAL)
    created = core.orgs.create(core.admin, "initech")
    acme, initech = Follower(core), Follower(core, "initech", [created.trust_anchor])
    acme.follow()
    # In its epoch there are `a` and `c` alone; what is current to operators is not a matter of who came last.
    assert core.history.get(core.admin, GLOBAL, 0)[0].epoch == 2
    assert initech.follow().revisions[GLOBAL].epoch == 1
    answer = roll_back(core, scope=GLOBAL, message="c was wrong").revision
    assert (answer.epoch, answer.kind) == (2, RevisionKind.ROLLBACK)
    assert acme.follow().revisions[GLOBAL] == answer
    revision = initech.follow().revisions[GLOBAL]
    assert (revision.epoch, revision.kind, revision.message) == (1, RevisionKind.PUBLISH, "c was wrong")
    assert acme.policies(GLOBAL) == initech.policies(GLOBAL) == ["b"]
    assert core.history.get(core.admin, GLOBAL, 0)[0] == answer


def test_an_epoch_in_which_the_content_has_expired_gets_it_as_a_bundle(core: Core) -> None:
    publish(core, "a", scope=GLOBAL, lifetime_s=DAY)
    core.clock.advance(DAY / 2)
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    publish(core, "b", scope=GLOBAL)
    acme, globex = Follower(core), Follower(core, "globex")
    acme.follow()
    globex.follow()
    core.clock.advance(0.7 * DAY)
    roll_back(core, scope=GLOBAL)
    assert acme.follow().revisions[GLOBAL].kind is RevisionKind.ROLLBACK
    assert globex.follow().revisions[GLOBAL].kind is RevisionKind.PUBLISH
    assert acme.policies(GLOBAL) == globex.policies(GLOBAL) == ["a"]
