"""Layers of teams and users on the server: published, given to hosts, renewed, rolled back, signed anew, bounded."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import PayloadType, SignedEnvelope
from akpolicy.errors import KeyNotAuthorised, OrgFrozen, OrgNotFound, PermissionDenied, SignersMissing, TooManyScopes
from akpolicy.freeze import FREEZE_POLICY
from akpolicy.scope import GLOBAL
from akpolicy.signing import sign_document
from akpolicy_server import room
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.orders import EnvelopeOrder, RollbackOrder
from akpolicy_server.renewal import Renewal
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.revisions import RevisionKind
from akpolicy_server.threads import Threads
from tests.unit.server.conftest import Core, order, policy
from tests.unit.server.follower import Follower, current_root, new_signers, next_root, with_keys, with_role

if TYPE_CHECKING:
    from akpolicy_server.publisher import Published

ACME = "org/acme"
TEAM = "org/acme/team/red"
USER = "org/acme/user/alice"
DAY = 86_400


def publish(core: Core, scope: str, *ids: str, effect: str = "permit") -> Published:
    return core.publisher.publish(core.admin, order(scope, "".join(policy(i, effect=effect) for i in ids)))


def renew(core: Core) -> None:
    with closing(Threads()) as threads:
        Renewal(core.database, core.ledger, threads, core.clock, ServerMetrics()).once()


@pytest.fixture
def layered(core: Core) -> Core:
    """Return a server where `acme` has a layer of each kind."""
    for scope in (GLOBAL, ACME, TEAM, USER):
        publish(core, scope, "p")
    return core


def test_hosts_of_the_org_get_every_layer_and_others_none_of_them(layered: Core) -> None:
    assert sorted(Follower(layered).follow().revisions) == [GLOBAL, ACME, TEAM, USER]
    assert sorted(Follower(layered, "globex").follow().revisions) == [GLOBAL]


def test_versions_count_for_each_scope_and_announce_its_org(layered: Core) -> None:
    layered.announced.clear()
    versions = [publish(layered, scope, "q").revision.version for scope in (TEAM, TEAM, USER)]
    assert versions == [2, 3, 2]
    assert layered.announced == ["acme"] * 3


def test_only_those_of_the_org_reach_its_members(layered: Core) -> None:
    own, other, platform = (layered.publisher_of(org) for org in ("acme", "globex", None))
    assert layered.publisher.publish(own, order(TEAM, policy("q"))).revision.version == 2
    for caller in (other, platform):
        with pytest.raises(PermissionDenied):
            layered.publisher.publish(caller, order(TEAM, policy("q")))
        with pytest.raises(PermissionDenied):
            layered.history.get(caller, USER, 0)
    with pytest.raises(OrgNotFound):
        publish(layered, "org/nobody/team/red", "p")


def test_history_is_of_one_scope(layered: Core) -> None:
    publish(layered, TEAM, "q")
    page = layered.history.page(layered.admin, TEAM, page_size=0, token="")
    assert [(r.scope, r.version) for r in page.revisions] == [(TEAM, 2), (TEAM, 1)]
    assert [entry.id for entry in layered.history.get(layered.admin, TEAM, 1)[1]] == ["p"]


def test_a_dry_run_leaves_no_layer(core: Core) -> None:
    assert core.publisher.publish(core.admin, order(TEAM, policy("p"), dry_run=True)).dry_run
    assert dict(Follower(core).follow().revisions) == {}


def test_a_members_layer_is_rolled_back(layered: Core) -> None:
    host = Follower(layered)
    publish(layered, USER, "q")
    host.follow()
    assert host.policies(USER) == ["q"]

    rolled = layered.rollbacks.roll_back(layered.admin, RollbackOrder(USER))

    host.follow()
    assert (rolled.revision.kind, rolled.revision.restores_version, host.policies(USER)) == (
        RevisionKind.ROLLBACK,
        1,
        ["p"],
    )


def test_members_layers_are_renewed(layered: Core) -> None:
    layered.clock.advance(16 * DAY)
    renew(layered)
    view = Follower(layered).follow()
    assert {scope: r.version for scope, r in view.revisions.items()} == {GLOBAL: 2, ACME: 2, TEAM: 2, USER: 2}
    assert view.revisions[TEAM].kind is RevisionKind.RENEWAL


# --- freezing ---------------------------------------------------------------------------------------------------------


def test_a_freeze_leaves_members_layers_as_they_are_and_so_does_its_end(layered: Core) -> None:
    host = Follower(layered)
    before = host.follow().revisions
    layered.freeze.set(layered.admin, "acme", frozen=True, message="")
    frozen = host.follow().revisions
    assert {scope for scope in frozen if frozen[scope] != before[scope]} == {ACME}
    assert host.texts(ACME) == [FREEZE_POLICY]

    assert publish(layered, TEAM, "q").revision.version == 2
    assert host.follow().revisions[ACME] == frozen[ACME]
    layered.freeze.set(layered.admin, "acme", frozen=False, message="")
    host.follow()
    assert (host.policies(ACME), host.policies(TEAM)) == (["p"], ["q"])


def test_the_same_policy_of_a_team_freezes_nobody_else(layered: Core) -> None:
    layered.publisher.publish(layered.admin, order(TEAM, FREEZE_POLICY))
    assert publish(layered, TEAM, "q").revision.version == 3
    layered.publisher.publish(layered.admin, order(ACME, FREEZE_POLICY))
    with pytest.raises(OrgFrozen):
        publish(layered, ACME, "q")


# --- keys of a team's own ---------------------------------------------------------------------------------------------


def test_a_teams_layer_is_signed_anew_with_the_key_that_the_root_names_for_it(layered: Core) -> None:
    host = Follower(layered)
    before = host.follow().revisions
    key = layered.online_keys.create(layered.admin, "acme", KeyRole.BUNDLE)
    roles = with_role(layered, "acme", "bundle", TEAM, key)
    root = next_root(layered, keys=with_keys(layered, "acme", key), roles=roles)

    published = layered.roots.publish(layered.admin, "acme", root)

    assert [(r.scope, r.version) for r in published.signed_anew] == [(TEAM, 2)]
    after = host.follow().revisions
    assert {scope for scope in after if after[scope] != before[scope]} == {TEAM}
    assert [s.key_id for s in after[TEAM].envelope.signatures] == [key.key_id]
    assert publish(layered, TEAM, "q").revision.version == 3
    host.follow()


def test_a_new_epoch_signs_every_layer_anew(layered: Core) -> None:
    host = Follower(layered)
    host.follow()
    published = layered.roots.publish(layered.admin, "acme", next_root(layered, epoch=2))
    assert [(r.scope, r.epoch, r.version) for r in published.signed_anew] == [
        (scope, 2, 1) for scope in (GLOBAL, ACME, TEAM, USER)
    ]
    assert sorted(host.follow().revisions) == [GLOBAL, ACME, TEAM, USER]


def test_a_team_whose_keys_are_elsewhere_is_dropped_until_its_lead_signs(layered: Core) -> None:
    host = Follower(layered)
    host.follow()
    [lead] = new_signers(1)
    roles = with_role(layered, "acme", "bundle", TEAM, lead.public_key)
    root = next_root(layered, keys=with_keys(layered, "acme", lead.public_key), roles=roles)

    assert layered.roots.publish(layered.admin, "acme", root).dropped == (TEAM,)
    assert sorted(host.follow().revisions) == [GLOBAL, ACME, USER]
    with pytest.raises(SignersMissing):
        publish(layered, TEAM, "q")

    prepared = layered.presigned.prepare(layered.admin, order(TEAM, policy("q")))
    assert prepared.current_version == 1
    signed = sign_document(PayloadType.BUNDLE, prepared.envelope.payload, [lead])
    published = layered.presigned.publish(layered.admin, EnvelopeOrder(signed, prepared.content))
    assert (published.revision.scope, published.revision.version) == (TEAM, 2)
    host.follow()
    assert host.policies(TEAM) == ["q"]


def test_what_the_orgs_key_signs_for_a_team_with_keys_of_its_own_is_refused(layered: Core) -> None:
    prepared = layered.presigned.prepare(layered.admin, order(TEAM, policy("q")))
    org_key = layered.vault.load(current_root(layered).bundle_role(ACME).keys[0])  # type: ignore[union-attr]
    key = layered.online_keys.create(layered.admin, "acme", KeyRole.BUNDLE)
    roles = with_role(layered, "acme", "bundle", TEAM, key)
    layered.roots.publish(layered.admin, "acme", next_root(layered, keys=with_keys(layered, "acme", key), roles=roles))
    prepared = layered.presigned.prepare(layered.admin, order(TEAM, policy("q")))
    signed: SignedEnvelope = sign_document(PayloadType.BUNDLE, prepared.envelope.payload, [org_key])

    with pytest.raises(KeyNotAuthorised):
        layered.presigned.publish(layered.admin, EnvelopeOrder(signed, prepared.content))


def test_a_team_that_may_only_forbid_cannot_permit(layered: Core) -> None:
    key = layered.online_keys.create(layered.admin, "acme", KeyRole.BUNDLE)
    roles = with_role(layered, "acme", "bundle", TEAM, key, grants=False)
    layered.roots.publish(layered.admin, "acme", next_root(layered, keys=with_keys(layered, "acme", key), roles=roles))

    with pytest.raises(KeyNotAuthorised, match="only forbid"):
        publish(layered, TEAM, "q")
    publish(layered, TEAM, "f", effect="forbid")
    host = Follower(layered)
    host.follow()
    assert host.policies(TEAM) == ["f"]


# --- room -------------------------------------------------------------------------------------------------------------


def test_an_org_has_no_more_scopes_than_hosts_take(layered: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_SCOPES_AN_ORG", 3)
    new = "org/acme/team/blue"
    with pytest.raises(TooManyScopes, match="has 3 scopes, as many as hosts enforce"):
        publish(layered, new, "p")
    with pytest.raises(TooManyScopes):
        layered.presigned.prepare(layered.admin, order(new, policy("p")))
    assert new not in Follower(layered).follow().revisions
    # What is there already, `global` and other orgs are not concerned.
    for scope in (GLOBAL, ACME, TEAM, USER, "org/globex/team/red"):
        publish(layered, scope, "q")


def test_an_index_has_no_more_bytes_than_hosts_take(layered: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = len("global" + ACME + TEAM + USER + "org/acme/team/blue") + 5 * room.MAX_LINE_BYTES
    monkeypatch.setattr(room, "MAX_INDEX_BYTES", limit)
    with pytest.raises(TooManyScopes, match=f"could grow to {limit + 1} bytes"):
        publish(layered, "org/acme/team/blues", "p")
    publish(layered, "org/acme/team/blue", "p")
    assert len(Follower(layered).follow().index.text) <= limit
