"""What becomes of bundles when a root changes: signed anew as one change with it, or dropped, and said."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import PayloadType
from akpolicy.errors import SignersMissing, TrustError
from akpolicy.limits import MAX_SIGNATURES
from akpolicy.root import Root
from akpolicy.scope import GLOBAL
from akpolicy.strict_json import load
from akpolicy_server.drafts import renewal_of
from akpolicy_server.metrics import ServerMetrics
from akpolicy_server.orders import EnvelopeOrder
from akpolicy_server.renewal import Renewal
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.store.revisions import RevisionKind, read_content
from akpolicy_server.threads import Threads
from tests.simulators.org import sign
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import (
    Follower,
    current_root,
    new_signers,
    next_root,
    replace_key,
    with_keys,
    with_role,
)
from tests.unit.server.test_roots import view_of

if TYPE_CHECKING:
    from tests.unit.server.conftest import Core

ACME = "org/acme"


def test_a_bundle_whose_key_is_revoked_is_signed_anew_as_one_change_with_the_root(core: Core) -> None:
    old = core.publisher.publish(core.admin, order(ACME, policy("p"), no_rollback=True, lifetime_s=3600)).revision
    host = Follower(core)
    before = host.follow()
    core.announced.clear()
    core.clock.advance(600)
    key, root = replace_key(core, "acme", KeyRole.BUNDLE, ACME)
    [anew] = core.roots.publish(core.admin, "acme", root).signed_anew
    assert (anew.version, anew.kind, anew.published_by) == (2, RevisionKind.RENEWAL, None)
    assert (anew.content_digest, anew.min_version) == (old.content_digest, 1)
    assert anew.expires_at - anew.issued_at == 3600
    assert [signature.key_id for signature in anew.envelope.signatures] == [key.key_id]
    after = host.follow()
    # One change: no host sees the new root with the old bundle.
    assert after.seq == before.seq + 1
    assert core.announced == ["acme"]
    assert host.policies(ACME) == ["p"]
    assert Follower(core).follow() == after


def test_a_bundle_whose_key_stays_is_left_alone(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, policy("p")))
    _, root = replace_key(core, "acme", KeyRole.ROLLBACK, ACME)
    assert core.roots.publish(core.admin, "acme", root).signed_anew == ()
    assert view_of(core).revisions[ACME].version == 1


def test_what_only_foreign_keys_can_sign_is_dropped_until_they_do(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, policy("p")))
    host = Follower(core)
    host.follow()
    owners = new_signers(3)
    keys = [owner.public_key for owner in owners]
    roles = with_role(core, "acme", "bundle", ACME, *keys, threshold=2)
    root = next_root(core, keys=with_keys(core, "acme", *keys), roles=roles)
    published = core.roots.publish(core.admin, "acme", root)
    assert (published.signed_anew, published.dropped) == ((), (ACME,))
    assert host.follow().index.text == b""
    with pytest.raises(SignersMissing, match=r"2 of 3 keys must sign .*`org/acme`.* holds 0 .*--unsigned"):
        core.publisher.publish(core.admin, order(ACME, policy("q")))
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("q")))
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, owners[:2])
    revision = core.presigned.publish(core.admin, EnvelopeOrder(signed, prepared.content)).revision
    # Not beside, but after what hosts had and dropped.
    assert revision.version == 2
    host.follow()
    assert host.policies(ACME) == ["q"]


def test_a_layer_that_was_dropped_comes_back_with_its_key(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, policy("p")))
    role = current_root(core).bundle_role(ACME)
    assert role is not None
    own = core.vault.load(role.keys[0]).public_key
    host = Follower(core)
    host.follow()
    [foreign] = new_signers(1)
    keys = with_keys(core, "acme", foreign.public_key)
    roles = with_role(core, "acme", "bundle", ACME, foreign.public_key)
    core.roots.publish(core.admin, "acme", next_root(core, keys=keys, roles=roles))
    assert host.follow().revisions == {}
    core.roots.publish(core.admin, "acme", next_root(core, roles=with_role(core, "acme", "bundle", ACME, own)))
    assert host.follow().revisions[ACME].version == 1
    assert host.policies(ACME) == ["p"]


def test_permits_are_dropped_where_the_root_lets_only_forbid(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, policy("p")))
    role = current_root(core).bundle_role(ACME)
    assert role is not None
    own = core.vault.load(role.keys[0]).public_key
    roles = with_role(core, "acme", "bundle", ACME, own, grants=False)
    assert core.roots.publish(core.admin, "acme", next_root(core, roles=roles)).dropped == (ACME,)
    assert view_of(core).revisions == {}
    core.publisher.publish(core.admin, order(ACME, policy("f", effect="forbid")))
    assert Follower(core).follow().revisions[ACME].version == 2


def test_an_expired_bundle_whose_key_is_replaced_is_signed_anew_too(core: Core) -> None:
    core.publisher.publish(core.admin, order(ACME, policy("p"), lifetime_s=60))
    core.clock.advance(61)
    _, root = replace_key(core, "acme", KeyRole.BUNDLE, ACME)
    [anew] = core.roots.publish(core.admin, "acme", root).signed_anew
    assert anew.expires_at > core.clock.now()


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_with_a_raised_epoch_everything_begins_again_for_that_org_alone(core: Core) -> None:
    for scope in (ACME, GLOBAL, ACME):
        core.publisher.publish(core.admin, order(scope, policy("p")))
    acme, globex = Follower(core), Follower(core, "globex")
    before, other = acme.follow(), globex.follow()
    published = core.roots.publish(core.admin, "acme", next_root(core, epoch=2))
    assert [(r.scope, r.epoch, r.version) for r in published.signed_anew] == [(GLOBAL, 2, 1), (ACME, 2, 1)]
    after = acme.follow()
    assert after.seq == before.seq + 1
    assert {scope: (r.epoch, r.version) for scope, r in after.revisions.items()} == {GLOBAL: (2, 1), ACME: (2, 1)}
    assert globex.follow() == other


def test_a_publish_of_global_reaches_the_orgs_of_every_epoch(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("first")))
    core.roots.publish(core.admin, "acme", next_root(core, epoch=5))
    asked = order(GLOBAL, policy("second"), expected_version=1, idempotency_key="k")
    answer = core.publisher.publish(core.admin, asked)
    assert (answer.revision.epoch, answer.revision.version) == (5, 2)
    acme, globex = Follower(core), Follower(core, "globex")
    assert acme.follow().revisions[GLOBAL].epoch == 5
    assert globex.follow().revisions[GLOBAL].epoch == 1
    assert acme.policies(GLOBAL) == globex.policies(GLOBAL) == ["second"]
    again = core.publisher.publish(core.admin, order(GLOBAL, policy("second"), expected_version=1, idempotency_key="k"))
    assert (again.repeated, again.revision) == (True, answer.revision)
    assert core.history.get(core.admin, GLOBAL, 0)[0] == answer.revision


def test_an_org_that_is_made_later_gets_the_newest_global_in_its_own_epoch(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("first")))
    for org in ("acme", "globex"):
        core.roots.publish(core.admin, org, next_root(core, org, epoch=2))
    core.publisher.publish(core.admin, order(GLOBAL, policy("second")))
    created = core.orgs.create(core.admin, "initech")
    host = Follower(core, "initech", [created.trust_anchor])
    assert host.follow().revisions[GLOBAL].epoch == 1
    assert host.policies(GLOBAL) == ["second"]


def test_what_cannot_be_signed_for_a_raised_epoch_stays_with_who_has_it_and_is_reported(core: Core) -> None:
    [owner] = new_signers(1)
    roles = with_role(core, "acme", "bundle", ACME, owner.public_key)
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", owner.public_key), roles=roles))
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("p")))
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [owner])
    core.presigned.publish(core.admin, EnvelopeOrder(signed, prepared.content))
    host = Follower(core)
    host.follow()
    assert core.roots.publish(core.admin, "acme", next_root(core, epoch=2)).dropped == (ACME,)
    # Hosts keep what they enforce until something of the new epoch comes.
    assert host.follow().revisions[ACME].epoch == 1
    with pytest.raises(TrustError):
        Follower(core).follow()
    prepared = core.presigned.prepare(core.admin, order(ACME, policy("q")))
    signed = sign(PayloadType.BUNDLE, prepared.envelope.payload, [owner])
    core.presigned.publish(core.admin, EnvelopeOrder(signed, prepared.content))
    assert host.follow().revisions[ACME].epoch == 2
    assert Follower(core).follow().revisions[ACME].version == 1


# --- the platform's keys ----------------------------------------------------------------------------------------------


def test_orgs_move_to_a_new_platform_key_one_after_the_other(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("first")))
    acme, globex = Follower(core), Follower(core, "globex")
    acme.follow()
    globex.follow()
    key, root = replace_key(core, "acme", KeyRole.BUNDLE, GLOBAL)
    [anew] = core.roots.publish(core.admin, "acme", root).signed_anew
    assert (anew.scope, anew.version, len(anew.envelope.signatures)) == (GLOBAL, 2, 2)
    # The revoked key's signature would be an alarm to acme's hosts: they are not sent it.
    sent = acme.follow().revisions[GLOBAL].envelope
    assert [signature.key_id for signature in sent.signatures] == [key.key_id]
    assert globex.follow().revisions[GLOBAL].version == 2
    core.publisher.publish(core.admin, order(GLOBAL, policy("second")))
    acme.follow()
    globex.follow()
    assert acme.policies(GLOBAL) == globex.policies(GLOBAL) == ["second"]
    created = core.orgs.create(core.admin, "initech")
    Follower(core, "initech", [created.trust_anchor]).follow()
    document = current_root(core, "initech").bundle_role(GLOBAL)
    assert document is not None
    assert document.keys == [key.key_id]


def test_an_org_that_leaves_the_platforms_keys_keeps_nobody_from_a_new_global(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("first")))
    acme, globex = Follower(core), Follower(core, "globex")
    acme.follow()
    seq = globex.follow().seq
    published = core.roots.publish(core.admin, "acme", next_root(core, roles=with_role(core, "acme", "bundle", GLOBAL)))
    assert published.dropped == (GLOBAL,)
    assert acme.follow().revisions == {}
    left = view_of(core).seq
    core.publisher.publish(core.admin, order(GLOBAL, policy("second")))
    assert globex.follow().seq == seq + 1
    assert (acme.follow().seq, dict(acme.follow().revisions)) == (left, {})
    # And comes back.
    platform = current_root(core, "globex").bundle_role(GLOBAL)
    assert platform is not None
    key = core.vault.load(platform.keys[0]).public_key
    core.roots.publish(core.admin, "acme", next_root(core, roles=with_role(core, "acme", "bundle", GLOBAL, key)))
    acme.follow()
    assert acme.policies(GLOBAL) == ["second"]


def test_a_global_that_no_orgs_hosts_would_take_is_refused(core: Core) -> None:
    for org in ("acme", "globex"):
        core.roots.publish(core.admin, org, next_root(core, org, roles=with_role(core, org, "bundle", GLOBAL)))
    with pytest.raises(TrustError, match="lets nobody sign"):
        core.publisher.publish(core.admin, order(GLOBAL, policy("p")))


def test_an_org_that_lets_the_platform_only_forbid_is_heard(core: Core) -> None:
    platform = current_root(core).bundle_role(GLOBAL)
    assert platform is not None
    key = core.vault.load(platform.keys[0]).public_key
    roles = with_role(core, "acme", "bundle", GLOBAL, key, grants=False)
    core.roots.publish(core.admin, "acme", next_root(core, roles=roles))
    with pytest.raises(TrustError, match="`acme` would refuse it: policy `p` permits"):
        core.publisher.publish(core.admin, order(GLOBAL, policy("p")))
    core.publisher.publish(core.admin, order(GLOBAL, policy("f", effect="forbid")))
    Follower(core).follow()


def test_an_org_that_lets_the_platform_only_forbid_keeps_nobody_from_a_renewal(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("p")))
    platform = current_root(core).bundle_role(GLOBAL)
    assert platform is not None
    key = core.vault.load(platform.keys[0]).public_key
    roles = with_role(core, "acme", "bundle", GLOBAL, key, grants=False)
    globex = Follower(core, "globex")
    before = globex.follow()
    assert core.roots.publish(core.admin, "acme", next_root(core, roles=roles)).dropped == (GLOBAL,)
    # No new version for the others, which would be of no use to acme.
    assert globex.follow() == before
    core.clock.advance(20 * 86_400)
    with closing(Threads()) as threads:
        Renewal(core.database, core.ledger, threads, core.clock, ServerMetrics()).once()
    assert globex.follow().revisions[GLOBAL].version == 2
    assert Follower(core).follow().revisions == {}


def test_an_org_that_demands_more_signatures_than_fit_keeps_nobody_from_a_new_global(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("first")))
    keys = [core.online_keys.create(core.admin, "acme", KeyRole.BUNDLE) for _ in range(MAX_SIGNATURES)]
    roles = with_role(core, "acme", "bundle", GLOBAL, *keys, threshold=MAX_SIGNATURES)
    root = next_root(core, keys=with_keys(core, "acme", *keys), roles=roles)
    globex = Follower(core, "globex")
    before = globex.follow()
    assert core.roots.publish(core.admin, "acme", root).dropped == (GLOBAL,)
    assert globex.follow() == before
    core.publisher.publish(core.admin, order(GLOBAL, policy("second")))
    globex.follow()
    assert globex.policies(GLOBAL) == ["second"]
    assert Follower(core).follow().revisions == {}


def test_a_first_root_that_cannot_have_the_current_global_begins_without_it(core: Core) -> None:
    core.publisher.publish(core.admin, order(GLOBAL, policy("p")))
    globex = Follower(core, "globex")
    before = globex.follow()
    [owner] = new_signers(1)
    created = core.orgs.create(core.admin, "initech", [owner.public_key.anchor])
    assert created.unsigned_root is not None
    root = load(created.unsigned_root.payload, Root)
    bundle = [d.model_copy(update={"grants": d.prefix != GLOBAL}) for d in root.roles.bundle]
    changed = root.model_copy(update={"roles": root.roles.model_copy(update={"bundle": bundle})})
    signed = sign(PayloadType.ROOT, changed.to_bytes(), [owner])
    assert core.roots.publish(core.admin, "initech", signed).dropped == (GLOBAL,)
    assert Follower(core, "initech", [owner.public_key.anchor]).follow().revisions == {}
    assert globex.follow() == before


def test_what_nobodys_hosts_would_take_is_not_signed_anew(core: Core) -> None:
    published = core.publisher.publish(core.admin, order(GLOBAL, policy("p"))).revision
    platform = current_root(core).bundle_role(GLOBAL)
    assert platform is not None
    key = core.vault.load(platform.keys[0]).public_key
    for org in ("acme", "globex"):
        roles = with_role(core, org, "bundle", GLOBAL, key, grants=False)
        core.roots.publish(core.admin, org, next_root(core, org, roles=roles))
    with core.ledger.change(None) as change, pytest.raises(TrustError, match="policy `p` permits"):
        core.ledger.commit(change, renewal_of(published, lambda: read_content(change.connection, published)))
    assert core.history.get(core.admin, GLOBAL, 0)[0] == published


def test_keys_that_end_soon_do_not_shorten_everybodys_global(core: Core) -> None:
    platform = current_root(core).bundle_role(GLOBAL)
    assert platform is not None
    key = core.vault.load(platform.keys[0]).public_key
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", key, valid_for=60)))
    revision = core.publisher.publish(core.admin, order(GLOBAL, policy("p"))).revision
    assert revision.expires_at - revision.issued_at == 30 * 86_400
    assert GLOBAL in Follower(core, "globex").follow().revisions
    assert GLOBAL not in Follower(core).follow().revisions
    # Those that end in a few days do: better a renewal more than an org without.
    core.roots.publish(core.admin, "acme", next_root(core, keys=with_keys(core, "acme", key, valid_for=5 * 86_400)))
    revision = core.publisher.publish(core.admin, order(GLOBAL, policy("q"))).revision
    assert revision.expires_at - revision.issued_at == 5 * 86_400
    assert revision.lifetime_s == 30 * 86_400
    Follower(core).follow()
    with pytest.raises(TrustError, match="after its signing keys"):
        core.publisher.publish(core.admin, order(GLOBAL, policy("r"), lifetime_s=6 * 86_400))
