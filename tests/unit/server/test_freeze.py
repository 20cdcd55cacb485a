"""A freeze: everything is forbidden until it is ended, and no rollback ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.bundle import Manifest, describe_content
from akpolicy.engine.check import check_policies
from akpolicy.engine.source import PolicyText
from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    InvalidField,
    OrgFrozen,
    OrgNotFound,
    PermissionDenied,
    RevisionNotFound,
    RollbackNotAuthorised,
    SignersMissing,
    VersionConflict,
)
from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID
from akpolicy.strict_json import load
from akpolicy_server.orders import EnvelopeOrder
from akpolicy_server.store.revisions import RevisionKind
from tests.simulators.org import sign
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower, current_root, new_signers, next_root, with_keys, with_role
from tests.unit.server.test_rollbacks import publish, roll_back
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from akpolicy_server.freeze import FreezeState
    from tests.unit.server.conftest import Core

ACME = "org/acme"


def freeze(core: Core, frozen: bool = True, message: str = "") -> FreezeState:
    return core.freeze.set(core.admin, "acme", frozen=frozen, message=message)


def test_the_policy_of_a_freeze_is_valid(schema: CedarSchema) -> None:
    assert not list(check_policies([PolicyText(FREEZE_POLICY_ID, FREEZE_POLICY)], schema))


def test_a_freeze_forbids_all_and_its_end_brings_back_what_was(core: Core) -> None:
    core.publisher.publish(
        core.admin, order(ACME, policy("a"), offline_max_age_s=77, lifetime_s=3600, no_rollback=True)
    )
    host = Follower(core)
    host.follow()
    frozen = freeze(core, message="stolen laptop")
    assert frozen.changed
    assert (frozen.revision.kind, frozen.revision.message) == (RevisionKind.FREEZE, "stolen laptop")
    host.follow()
    assert host.policies(ACME) == [FREEZE_POLICY_ID]
    assert host.enforced[ACME].manifest.offline.max_age_s == 77
    ended = freeze(core, frozen=False)
    assert ended.changed
    assert (ended.revision.kind, ended.revision.version) == (RevisionKind.UNFREEZE, 3)
    host.follow()
    assert host.policies(ACME) == ["a"]
    assert host.enforced[ACME].manifest.offline.max_age_s == 77
    assert ended.revision.expires_at - ended.revision.issued_at == 30 * 86_400


def test_asking_for_what_is_so_changes_nothing(core: Core) -> None:
    publish(core, "a")
    assert not freeze(core, frozen=False).changed
    first = freeze(core)
    seq = view_of(core).seq
    again = freeze(core)
    assert (again.changed, again.revision) == (False, first.revision)
    assert view_of(core).seq == seq


def test_no_rollback_ends_a_freeze_or_goes_back_past_it(core: Core) -> None:
    publish(core, "a", "b")
    freeze(core)
    for version in (0, 1, 2):
        with pytest.raises(RollbackNotAuthorised):
            roll_back(core, version)
    freeze(core, frozen=False)
    for version in (1, 2):
        with pytest.raises(RollbackNotAuthorised):
            roll_back(core, version)
    # To the freeze itself: that harms nobody but those who would be denied.
    assert roll_back(core).revision.restores_version == 3


def test_a_freeze_that_a_rollback_could_end_is_made_again(core: Core) -> None:
    publish(core, "a")
    freeze(core)
    freeze(core, frozen=False)
    assert roll_back(core).revision.restores_version == 2
    again = freeze(core)
    assert (again.changed, again.revision.version, again.revision.min_version) == (True, 5, 5)
    with pytest.raises(RollbackNotAuthorised):
        roll_back(core, 3)
    assert not freeze(core).changed
    assert freeze(core, frozen=False).changed


def test_a_freeze_that_a_plain_publish_brought_is_made_again(core: Core) -> None:
    publish(core, "a")
    core.publisher.publish(core.admin, order(ACME, FREEZE_POLICY))
    again = freeze(core)
    assert (again.changed, again.revision.min_version) == (True, 3)
    with pytest.raises(RollbackNotAuthorised):
        roll_back(core, 1)


def test_a_policy_that_only_bears_the_id_of_a_freeze_is_none(core: Core) -> None:
    publish(core, FREEZE_POLICY_ID)
    assert not freeze(core, frozen=False).changed
    publish(core, FREEZE_POLICY_ID)
    host = Follower(core)
    frozen = freeze(core)
    assert (frozen.changed, frozen.revision.kind) == (True, RevisionKind.FREEZE)
    host.follow()
    assert host.texts(ACME) == [FREEZE_POLICY]
    assert not freeze(core).changed
    assert freeze(core, frozen=False).changed
    host.follow()
    assert host.texts(ACME) == [policy(FREEZE_POLICY_ID).strip()]


def test_the_text_of_a_freeze_beside_another_policy_is_none(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, f"{FREEZE_POLICY}\n{policy('a')}"))
    assert freeze(core).changed


def test_a_freeze_that_was_signed_elsewhere_in_other_json_is_one(core: Core) -> None:
    publish(core, "a")
    prepared = core.presigned.prepare(core.admin, order(ACME, FREEZE_POLICY, no_rollback=True))
    blob = prepared.content.replace(b'"id":', b'"id": ')
    assert blob != prepared.content
    manifest = load(prepared.envelope.payload, Manifest)
    manifest = manifest.model_copy(update={"content": describe_content(blob, 1)})
    role = current_root(core).bundle_role(ACME)
    assert role is not None
    envelope = sign(PayloadType.BUNDLE, manifest.to_bytes(), [core.vault.load(role.keys[0])])
    core.presigned.publish(core.admin, EnvelopeOrder(envelope, blob))
    with pytest.raises(OrgFrozen):
        publish(core, "b")
    assert not freeze(core).changed
    host = Follower(core)
    assert freeze(core, frozen=False).changed
    host.follow()
    assert host.policies(ACME) == ["a"]


def test_two_freezes_in_a_row_end_in_what_was_before_both(core: Core) -> None:
    publish(core, "a")
    freeze(core)
    core.publisher.publish(core.admin, order(ACME, FREEZE_POLICY, expected_version=2))
    assert not freeze(core).changed
    ended = freeze(core, frozen=False)
    host = Follower(core)
    host.follow()
    assert host.policies(ACME) == ["a"]
    assert ended.revision.version == 4


def test_an_org_without_policies_can_be_frozen_and_has_nothing_to_return_to(core: Core) -> None:
    with pytest.raises(RevisionNotFound):
        freeze(core, frozen=False)
    assert freeze(core).revision.version == 1
    Follower(core).follow()
    with pytest.raises(RevisionNotFound, match="publish policies instead"):
        freeze(core, frozen=False)
    publish(core, "a", expected_version=1)
    assert not freeze(core, frozen=False).changed


def test_a_freeze_whose_keys_are_gone_is_made_again(core: Core) -> None:
    publish(core, "a")
    role = current_root(core).bundle_role(ACME)
    assert role is not None
    own = core.vault.load(role.keys[0]).public_key
    freeze(core)
    [foreign] = new_signers(1)
    keys = with_keys(core, "acme", foreign.public_key)
    core.roots.publish(
        core.admin,
        "acme",
        next_root(core, keys=keys, roles=with_role(core, "acme", "bundle", ACME, foreign.public_key)),
    )
    assert view_of(core).revisions == {}
    with pytest.raises(SignersMissing):
        freeze(core)
    more = core.vault.create().public_key
    roles = with_role(core, "acme", "bundle", ACME, more)
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", more), roles=roles))
    assert view_of(core).revisions[ACME].kind is RevisionKind.RENEWAL
    assert not freeze(core).changed
    assert own.key_id != more.key_id


def test_a_freeze_outlives_a_raised_epoch(core: Core) -> None:
    publish(core, "a")
    freeze(core)
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    host = Follower(core)
    host.follow()
    assert host.policies(ACME) == [FREEZE_POLICY_ID]
    assert freeze(core, frozen=False).revision.epoch == 2
    host.follow()
    assert host.policies(ACME) == ["a"]


def test_publishers_of_the_org_freeze_it_and_nobody_else(core: Core) -> None:
    assert core.freeze.set(core.publisher_of("acme"), "acme", frozen=True, message="").changed
    with pytest.raises(PermissionDenied):
        core.freeze.set(core.publisher_of("acme"), "globex", frozen=True, message="")
    with pytest.raises(PermissionDenied):
        core.freeze.set(core.publisher_of(None), "acme", frozen=True, message="")
    with pytest.raises(OrgNotFound):
        core.freeze.set(core.admin, "nobody", frozen=True, message="")
    for org, message in (("not an org", ""), ("acme", "x" * 1001)):
        with pytest.raises(InvalidField):
            core.freeze.set(core.admin, org, frozen=True, message=message)


def test_only_a_publish_that_names_the_freeze_ends_it(core: Core) -> None:
    publish(core, "a")
    frozen = freeze(core).revision
    with pytest.raises(OrgFrozen, match=f"expected version {frozen.version} "):
        publish(core, "b")
    with pytest.raises(VersionConflict):
        core.publisher.publish(core.admin, order(ACME, policy("b"), expected_version=frozen.version - 1))
    ended = core.publisher.publish(core.admin, order(ACME, policy("b"), expected_version=frozen.version)).revision
    assert ended.version == frozen.version + 1
    publish(core, "c")


def test_nothing_is_prepared_that_would_end_a_freeze_unawares(core: Core) -> None:
    publish(core, "a")
    frozen = freeze(core).revision
    with pytest.raises(OrgFrozen, match=f"expected version {frozen.version} "):
        core.presigned.prepare(core.admin, order(ACME, policy("b")))
    assert core.presigned.prepare(core.admin, order(ACME, policy("b"), expected_version=2)).current_version == 2
