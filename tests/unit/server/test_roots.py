"""Roots brought by their owners: what is believed, what is refused, and how an org of foreign keys begins."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    AkpolicyError,
    EnvelopeMalformed,
    EpochMismatch,
    FieldInvalid,
    InvalidField,
    OrgExists,
    OrgNotFound,
    PermissionDenied,
    RootChainGap,
    RootExpired,
    RootNotFound,
    RootThresholdNew,
    RootThresholdOld,
    RootUnanchored,
    SidecarTooOld,
    VersionConflict,
)
from akpolicy.root import Delegation, parse_root
from akpolicy.signing import PrivateKeySigner, sign_document
from akpolicy_server.access import Role
from akpolicy_server.orgs import MAX_ROOT_THRESHOLD
from akpolicy_server.store.online_keys import KeyRole
from akpolicy_server.views import read_view
from tests.simulators.org import sign
from tests.unit.server.conftest import order, policy
from tests.unit.server.follower import Follower, current_root, new_signers, next_root, with_keys, with_role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.envelope import SignedEnvelope
    from akpolicy_server.orgs import CreatedOrg
    from akpolicy_server.views import OrgView
    from tests.unit.server.conftest import Core


def view_of(core: Core, org: str = "acme") -> OrgView:
    with core.database.read() as connection:
        return read_view(connection, org)


def rotated(core: Core, *signers: PrivateKeySigner, threshold: int = 1) -> dict[str, Any]:
    """Return the changes of a root that hands the root role to other keys."""
    role = {"keys": [signer.public_key.key_id for signer in signers], "threshold": threshold}
    roles = current_root(core).roles.model_dump() | {"root": role}
    return {"keys": with_keys(core, "acme", *(signer.public_key for signer in signers)), "roles": roles}


def both(core: Core, *signers: PrivateKeySigner) -> list[Any]:
    """Return the root keys of now, and those to come."""
    return [*(core.vault.load(key) for key in current_root(core).roles.root.keys), *signers]


def test_a_next_root_is_stored_counted_and_announced_and_hosts_follow_it(core: Core) -> None:
    before = Follower(core).follow()
    published = core.roots.publish(core.admin, "acme", next_root(core))
    assert (published.version, published.repeated, published.signed_anew, published.dropped) == (2, False, (), ())
    assert core.announced == ["acme"]
    after = Follower(core).follow()
    assert (after.root.document.version, after.seq) == (2, before.seq + 1)
    assert view_of(core, "globex").seq == before.seq


def test_the_root_moves_to_foreign_keys_and_the_servers_own_signs_no_more(core: Core) -> None:
    owners = new_signers(3)
    changes = rotated(core, *owners, threshold=2)
    core.roots.publish(core.admin, "acme", next_root(core, signed_by=both(core, *owners[:2]), **changes))
    with pytest.raises(RootThresholdOld):
        core.roots.publish(core.admin, "acme", next_root(core, signed_by=owners[:1]))
    core.roots.publish(core.admin, "acme", next_root(core, signed_by=owners[1:]))
    assert Follower(core).follow().root.document.version == 3


def _skipping(core: Core) -> SignedEnvelope:
    return next_root(core, version=3)


def _by_strangers(core: Core) -> SignedEnvelope:
    return next_root(core, signed_by=new_signers(1))


def _half_rotated(core: Core) -> SignedEnvelope:
    return next_root(core, signed_by=both(core), **rotated(core, *new_signers(1)))


def _expired(core: Core) -> SignedEnvelope:
    return next_root(core, expires_at=int(core.clock.now()))


def _of_globex(core: Core) -> SignedEnvelope:
    return next_root(core, "globex")


def _for_newer_sidecars(core: Core) -> SignedEnvelope:
    return next_root(core, min_sidecar="999.0.0")


def _unsigned(core: Core) -> SignedEnvelope:
    return sign(PayloadType.ROOT, next_root(core).payload, [])


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (_skipping, RootChainGap),
        (_by_strangers, RootThresholdOld),
        (_half_rotated, RootThresholdNew),
        (_expired, RootExpired),
        (_of_globex, RootThresholdOld),
        (_for_newer_sidecars, SidecarTooOld),
        (_unsigned, EnvelopeMalformed),
    ],
)
def test_a_root_that_hosts_would_refuse_leaves_no_trace(core: Core, make: Any, error: type[AkpolicyError]) -> None:
    before = view_of(core)
    with pytest.raises(error, match="hosts of the org `acme` would refuse it"):
        core.roots.publish(core.admin, "acme", make(core))
    assert view_of(core) == before
    assert core.announced == []


def test_nothing_is_taken_back(core: Core) -> None:
    core.roots.publish(core.admin, "acme", next_root(core, epoch=2, revoked={"a" * 64: 1}))
    with pytest.raises(FieldInvalid, match="undoes the revocation"):
        core.roots.publish(core.admin, "acme", next_root(core, revoked={}))
    with pytest.raises(EpochMismatch, match="lowers the epoch"):
        core.roots.publish(core.admin, "acme", next_root(core, epoch=1))


def test_who_comes_second_with_a_version_learns_that_another_root_was_first(core: Core) -> None:
    second = next_root(core, expires_at=int(core.clock.now()) + 1000)
    core.roots.publish(core.admin, "acme", next_root(core))
    with pytest.raises(VersionConflict, match="another root of version 2") as caught:
        core.roots.publish(core.admin, "acme", second)
    assert caught.value.current == 2
    # Also if the first one took the root role away from who signed the second.
    owner = new_signers(1)
    late = next_root(core, expires_at=int(core.clock.now()) + 1000)
    core.roots.publish(core.admin, "acme", next_root(core, signed_by=both(core, *owner), **rotated(core, *owner)))
    with pytest.raises(VersionConflict):
        core.roots.publish(core.admin, "acme", late)


def test_of_concurrent_roots_of_one_version_exactly_one_wins(core: Core) -> None:
    candidates = [next_root(core, expires_at=int(core.clock.now()) + 1000 + number) for number in range(6)]
    won: list[int] = []
    lost: list[int] = []

    def publish(envelope: SignedEnvelope) -> None:
        try:
            won.append(core.roots.publish(core.admin, "acme", envelope).version)
        except VersionConflict as conflict:
            lost.append(conflict.current)

    threads = [threading.Thread(target=publish, args=(candidate,)) for candidate in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (won, lost) == ([2], [2] * 5)


def test_the_newest_root_again_changes_nothing(core: Core) -> None:
    envelope = next_root(core)
    core.roots.publish(core.admin, "acme", envelope)
    seq = view_of(core).seq
    assert core.roots.publish(core.admin, "acme", envelope).repeated
    assert view_of(core).seq == seq
    assert core.announced == ["acme"]


def test_a_dry_run_judges_all_and_changes_nothing(core: Core) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p")))
    core.announced.clear()
    before = view_of(core)
    published = core.roots.publish(core.admin, "acme", next_root(core, epoch=2), dry_run=True)
    assert published.version == 2
    assert [(r.scope, r.epoch, r.version) for r in published.signed_anew] == [("org/acme", 2, 1)]
    with pytest.raises(RootChainGap):
        core.roots.publish(core.admin, "acme", _skipping(core), dry_run=True)
    assert view_of(core) == before
    assert core.announced == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_logged_during_a_dry_run_says_that_it_is_one(core: Core, dry_run: bool) -> None:
    core.publisher.publish(core.admin, order("org/acme", policy("p")))
    [foreign] = new_signers(1)
    keys = with_keys(core, "acme", foreign.public_key)
    roles = with_role(core, "acme", "bundle", "org/acme", foreign.public_key) | {"heartbeat": None}
    with capture_logs(processors=[merge_contextvars]) as logs:
        core.roots.publish(core.admin, "acme", next_root(core, keys=keys, roles=roles), dry_run=dry_run)
    assert [entry["event"].partition(":")[0] for entry in logs] == [
        "hosts of an org lose a layer",
        "hosts of an org get no heartbeats",
    ]
    assert [entry.get("dry_run", False) for entry in logs] == [dry_run, dry_run]


def test_only_an_orgs_admins_bring_its_root(core: Core) -> None:
    envelope = next_root(core)
    for caller in (core.publisher_of("acme"), core.publisher_of(None)):
        with pytest.raises(PermissionDenied):
            core.roots.publish(caller, "acme", envelope)
    made = core.api_keys.create(core.admin, org="acme", role=Role.ADMIN, host_id="", description="")
    admin = core.api_keys.authenticate(made.secret)
    with pytest.raises(PermissionDenied):
        core.roots.publish(admin, "globex", next_root(core, "globex"))
    assert core.roots.publish(admin, "acme", envelope).version == 2
    with pytest.raises(OrgNotFound):
        core.roots.publish(core.admin, "nobody", envelope)


def test_roots_can_be_read_by_publishers_of_the_org(core: Core) -> None:
    for _ in range(3):
        core.roots.publish(core.admin, "acme", next_root(core))
    reader = core.publisher_of("acme")
    assert [root.version for root in core.roots.after(reader, "acme", 0)] == [1, 2, 3, 4]
    assert [root.version for root in core.roots.after(reader, "acme", 2)] == [3, 4]
    assert [root.version for root in core.roots.after(reader, "acme", 0, newest_only=True)] == [4]
    assert core.roots.after(reader, "acme", 4, newest_only=True) == []
    with pytest.raises(PermissionDenied):
        core.roots.after(reader, "globex", 0)
    with pytest.raises(OrgNotFound):
        core.roots.after(core.admin, "nobody", 0)


def test_more_rotations_than_a_host_follows_at_once_are_judged_as_a_whole(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akpolicy.trust.judge.MAX_ROTATIONS", 2)
    for _ in range(6):
        core.roots.publish(core.admin, "acme", next_root(core))
    assert current_root(core).version == 7


# --- orgs of foreign root keys ----------------------------------------------------------------------------------------


def pending(core: Core, owners: Sequence[PrivateKeySigner], threshold: int = 0) -> CreatedOrg:
    return core.orgs.create(core.admin, "initech", [owner.public_key.anchor for owner in owners], threshold)


def test_an_org_of_foreign_root_keys_waits_until_their_owners_signed_its_first_root(core: Core) -> None:
    owners = new_signers(3)
    everyone = core.publisher.publish(core.admin, order("global", policy("everyone"))).revision
    created = pending(core, owners, 2)
    assert (created.root_version, created.root_key_id) == (0, None)
    assert created.trust_anchor == owners[0].public_key.anchor
    unsigned = created.unsigned_root
    assert unsigned is not None
    assert unsigned.signatures == ()
    for attempt in (
        lambda: core.publisher.publish(core.admin, order("org/initech", policy("p"))),
        lambda: core.presigned.prepare(core.admin, order("org/initech", policy("p"))),
        lambda: core.freeze.set(core.admin, "initech", frozen=True, message=""),
        lambda: view_of(core, "initech"),
    ):
        with pytest.raises(RootNotFound, match="waits for its first root"):
            attempt()
    assert core.roots.after(core.admin, "initech", 0) == []
    with pytest.raises(RootUnanchored):
        core.roots.publish(core.admin, "initech", sign(PayloadType.ROOT, unsigned.payload, owners[:1]))
    published = core.roots.publish(core.admin, "initech", sign(PayloadType.ROOT, unsigned.payload, owners[1:]))
    assert (published.version, published.signed_anew, published.dropped) == (1, (), ())
    core.publisher.publish(core.admin, order("org/initech", policy("p")))
    follower = Follower(core, "initech", [owner.public_key.anchor for owner in owners], 2)
    view = follower.follow()
    assert view.revisions["global"].digest == everyone.digest
    assert follower.policies("org/initech") == ["p"]


def test_the_server_holds_no_key_that_can_sign_such_a_root(core: Core) -> None:
    owners = new_signers(1)
    created = pending(core, owners)
    assert created.unsigned_root is not None
    root, _ = parse_root(created.unsigned_root.payload)
    assert root.roles.root.keys == [owners[0].public_key.key_id]
    assert core.vault.find(owners[0].public_key.key_id) is None
    online = {key for role in root.all_roles()[1:] for key in role.keys}
    assert all(core.vault.find(key_id) for key_id in online)


def test_owners_may_change_the_first_root_before_they_sign_it(core: Core) -> None:
    owners, offline = new_signers(1), new_signers(1)
    created = pending(core, owners)
    assert created.unsigned_root is not None
    root, _ = parse_root(created.unsigned_root.payload)
    key = offline[0].public_key
    encoded = key.anchor.removeprefix("ed25519:")
    entry = root.keys[owners[0].public_key.key_id].model_copy(update={"public_key": encoded})
    bundle = [Delegation(prefix="org/initech", keys=[key.key_id], threshold=1, grants=True), root.roles.bundle[1]]
    changed = root.model_copy(
        update={"keys": {**root.keys, key.key_id: entry}, "roles": root.roles.model_copy(update={"bundle": bundle})}
    )
    core.roots.publish(core.admin, "initech", sign_document(PayloadType.ROOT, changed.to_bytes(), [*owners]))
    assert current_root(core, "initech").bundle_role("org/initech").keys == [key.key_id]  # type: ignore[union-attr]


def test_asking_again_gets_the_same_answer_and_asking_for_something_else_does_not(core: Core) -> None:
    owners = new_signers(2)
    created = pending(core, owners, 2)
    core.clock.advance(3600)
    assert pending(core, owners, 2) == created
    for others, threshold in ((owners, 1), (owners[::-1], 2), (owners[:1], 1), ([], 0)):
        with pytest.raises(OrgExists):
            pending(core, others, threshold)
    assert created.unsigned_root is not None
    core.roots.publish(core.admin, "initech", sign(PayloadType.ROOT, created.unsigned_root.payload, owners))
    again = pending(core, owners, 2)
    assert (again.root_version, again.unsigned_root) == (1, None)
    with pytest.raises(OrgExists):
        core.orgs.create(core.admin, "acme", [owners[0].public_key.anchor])


def test_concurrent_requests_for_one_org_get_one_org(core: Core) -> None:
    owners = new_signers(1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(pending(core, owners))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("keys", "threshold"),
    [
        (["nonsense"], 1),
        (["ed25519:AAAA"], 1),
        (["ed25519:" + "A" * 43 + "="], 1),
        ("twice", 1),
        ("one", 2),
        ([], 2),
        ("many", 1),
        ("threshold", MAX_ROOT_THRESHOLD + 1),
    ],
)
def test_root_keys_that_cannot_be_are_refused(core: Core, keys: list[str] | str, threshold: int) -> None:
    made = [signer.public_key.anchor for signer in new_signers(65)]
    lists = {"twice": made[:1] * 2, "one": made[:1], "many": made, "threshold": made[:20]}
    with pytest.raises(InvalidField, match=r"root_keys|root_threshold"):
        core.orgs.create(core.admin, "initech", lists[keys] if isinstance(keys, str) else keys, threshold)


# --- online keys ------------------------------------------------------------------------------------------------------


def test_an_online_key_lies_in_the_vault_and_signs_nothing_before_a_root_names_it(core: Core) -> None:
    key = core.online_keys.create(core.admin, "acme", KeyRole.BUNDLE)
    assert core.vault.load(key.key_id).public_key == key
    revision = core.publisher.publish(core.admin, order("org/acme", policy("p"))).revision
    assert key.key_id not in {signature.key_id for signature in revision.envelope.signatures}


def test_only_admins_make_online_keys_and_only_for_their_org(core: Core) -> None:
    made = core.api_keys.create(core.admin, org="acme", role=Role.ADMIN, host_id="", description="")
    admin = core.api_keys.authenticate(made.secret)
    core.online_keys.create(admin, "acme", KeyRole.HEARTBEAT)
    for caller, org in ((admin, "globex"), (admin, None), (core.publisher_of("acme"), "acme")):
        with pytest.raises(PermissionDenied):
            core.online_keys.create(caller, org, KeyRole.BUNDLE)
    with pytest.raises(OrgNotFound):
        core.online_keys.create(core.admin, "nobody", KeyRole.BUNDLE)
    with pytest.raises(InvalidField, match="name an org"):
        core.online_keys.create(core.admin, None, KeyRole.HEARTBEAT)


def test_the_number_of_online_keys_is_bounded(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("akpolicy_server.online.MAX_KEYS_PER_OWNER", 5)
    core.online_keys.create(core.admin, "acme", KeyRole.BUNDLE)
    with pytest.raises(InvalidField, match="has 5 keys already"):
        core.online_keys.create(core.admin, "acme", KeyRole.BUNDLE)
