"""The next root: what changes make of it, what cannot be made, and that hosts accept whatever is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.envelope import PayloadType
from akpolicy.errors import KeyRevoked, RootThresholdNew, RootThresholdOld, UsageError
from akpolicy.limits import MAX_SIGNATURES
from akpolicy.role_name import RoleName, parse_role
from akpolicy.root import parse_root
from akpolicy.root_change import (
    KEY_LIFETIME_S,
    ROOT_LIFETIME_S,
    AddKey,
    Change,
    DropRole,
    ExtendKey,
    NewEpoch,
    RemoveKey,
    RevokeKey,
    SetGrants,
    SetMinSidecar,
    SetThreshold,
    next_root,
)
from akpolicy.root_draft import MAX_REVOKED_LISTED, roles_of
from akpolicy.signing import PrivateKeySigner
from akpolicy.trust import Judge
from tests.simulators.org import OrgSimulator, sign
from tests.unit.ceremony.people import NOW, ORG, SCOPE, Ceremony, fewest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.root import Root
    from akpolicy.signing import Signer

ROOT = RoleName("root")
HEARTBEAT = RoleName("heartbeat")
BUNDLE = RoleName("bundle", SCOPE)
ROLES = [
    ROOT,
    HEARTBEAT,
    BUNDLE,
    RoleName("bundle", "global"),
    RoleName("rollback", SCOPE),
    RoleName("bundle", f"{SCOPE}/team/red"),
]


@pytest.fixture
def ceremony() -> Ceremony:
    return Ceremony()


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_the_first_root_is_one_that_its_owners_can_let_hosts_trust(ceremony: Ceremony) -> None:
    assert ceremony.judge().root is not None
    assert {str(name): len(role.keys) for name, role in roles_of(ceremony.root).items()} == {
        "root": 3,
        "heartbeat": 1,
        "bundle:org/acme": 1,
        "bundle:global": 1,
        "rollback:org/acme": 1,
        "rollback:global": 1,
    }


def test_a_root_without_changes_is_the_same_with_a_new_life(ceremony: Ceremony) -> None:
    renewed = ceremony.next(now=NOW + 1000)
    assert (renewed.version, renewed.issued_at) == (2, NOW + 1000)
    assert renewed.expires_at == NOW + 1000 + ROOT_LIFETIME_S
    assert (renewed.keys, renewed.roles, renewed.epoch) == (ceremony.root.keys, ceremony.root.roles, 1)


def test_an_added_key_is_valid_from_now_for_its_lifetime(ceremony: Ceremony) -> None:
    key = PrivateKeySigner.generate().public_key
    changed = next_root(ceremony.root, [AddKey(BUNDLE, key)], NOW + 5, key_lifetime_s=1000)
    assert (changed.keys[key.key_id].valid_from, changed.keys[key.key_id].valid_until) == (NOW + 5, NOW + 1005)
    assert key.key_id in roles_of(changed)[BUNDLE].keys


def test_a_key_in_a_second_role_keeps_the_longer_validity(ceremony: Ceremony) -> None:
    key = ceremony.bundle_signer.public_key
    changed = next_root(ceremony.root, [AddKey(HEARTBEAT, key)], NOW, key_lifetime_s=1000)
    assert changed.keys[key.key_id] == ceremony.root.keys[key.key_id]


def test_keys_can_be_exchanged_in_any_order(ceremony: Ceremony) -> None:
    new = PrivateKeySigner.generate().public_key
    old = ceremony.bundle_signer.public_key.key_id
    changes: list[Change] = [RemoveKey(BUNDLE, old), AddKey(BUNDLE, new)]
    for order in (changes, changes[::-1]):
        changed = ceremony.next(*order)
        assert roles_of(changed)[BUNDLE].keys == [new.key_id]
        assert old not in changed.keys


def test_a_new_prefix_begins_with_one_key_and_may_be_kept_from_permitting(ceremony: Ceremony) -> None:
    team = RoleName("bundle", f"{SCOPE}/team/red")
    changed = ceremony.next(AddKey(team, PrivateKeySigner.generate().public_key), SetGrants(team.prefix, grants=False))
    role = changed.bundle_role(team.prefix)
    assert role is not None
    assert (role.threshold, role.grants) == (1, False)


def test_a_revoked_key_leaves_every_role_and_what_it_signed_is_refused_as_revoked() -> None:
    org = OrgSimulator()
    host = Judge(ORG, org.anchors)
    first = host.trust_root(org.root_envelope(), NOW).document
    bundle, _ = org.bundle_envelope(SCOPE)
    host.judge_manifest(bundle, NOW)
    leaked, fresh = org.bundle_signer.public_key.key_id, PrivateKeySigner.generate()
    changed = next_root(first, [RevokeKey(leaked), AddKey(BUNDLE, fresh.public_key)], NOW + 9)
    assert changed.revoked == {leaked: NOW + 9}
    assert all(leaked not in role.keys for role in changed.all_roles())
    host.trust_root(sign(PayloadType.ROOT, changed.to_bytes(), [org.root_signer]), NOW + 9)
    with pytest.raises(KeyRevoked):
        host.judge_manifest(bundle, NOW + 9)


def test_a_revoked_key_is_listed_only_while_it_would_be_valid(ceremony: Ceremony) -> None:
    owner = ceremony.owners[0].public_key.key_id
    revoked = ceremony.next(RevokeKey(owner))
    assert owner in revoked.keys
    end = revoked.keys[owner].valid_until
    assert owner in next_root(revoked, [], end - 1).keys
    later = next_root(revoked, [], end)
    assert owner not in later.keys
    assert later.revoked == {owner: NOW}


def test_of_many_revoked_keys_the_newest_stay_listed(ceremony: Ceremony) -> None:
    root = ceremony.root
    gone = []
    for number in range(MAX_REVOKED_LISTED + 2):
        key = PrivateKeySigner.generate().public_key
        gone.append(key.key_id)
        root = next_root(root, [AddKey(BUNDLE, key), RevokeKey(key.key_id)], NOW + number)
    assert [key_id in root.keys for key_id in gone] == [False] * 2 + [True] * MAX_REVOKED_LISTED
    assert set(root.revoked) == set(gone)


def test_an_extended_key_lives_for_the_lifetime_from_now(ceremony: Ceremony) -> None:
    key_id = ceremony.heartbeat_signer.public_key.key_id
    later = NOW + 100 * 86_400
    assert next_root(ceremony.root, [ExtendKey(key_id)], later).keys[key_id].valid_until == later + KEY_LIFETIME_S


def test_epoch_and_oldest_sidecar_change_when_asked(ceremony: Ceremony) -> None:
    changed = ceremony.next(NewEpoch(), SetMinSidecar("0.0.9"))
    assert (changed.epoch, changed.min_sidecar) == (2, "0.0.9")


def test_a_dropped_role_lets_nobody_sign(ceremony: Ceremony) -> None:
    changed = ceremony.next(DropRole(HEARTBEAT), DropRole(BUNDLE))
    assert changed.roles.heartbeat is None
    assert changed.bundle_role(SCOPE) is None


# --- what cannot be made ----------------------------------------------------------------------------------------------


def key_ids(ceremony: Ceremony) -> list[str]:
    return [owner.public_key.key_id for owner in ceremony.owners]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda c: [RevokeKey(key_ids(c)[0]), RevokeKey(key_ids(c)[1])], "add a key to `root`, or lower its threshold"),
        (lambda c: [RevokeKey(c.bundle_signer.public_key.key_id)], "add a key to `bundle:org/acme`, or drop the role"),
        (lambda c: [RemoveKey(HEARTBEAT, c.heartbeat_signer.public_key.key_id)], "or drop the role"),
        (lambda c: [SetThreshold(ROOT, 4)], "role `root` would have 3 of the 4 keys"),
        (lambda c: [SetThreshold(ROOT, 0)], "begins at 1"),
        (lambda c: [SetThreshold(ROOT, MAX_SIGNATURES + 1)], "at most 16 signatures"),
        (lambda c: [SetThreshold(RoleName("bundle", f"{SCOPE}/team/x"), 1)], "no role `bundle:org/acme/team/x`"),
        (lambda c: [DropRole(ROOT)], "cannot be dropped"),
        (lambda c: [RemoveKey(ROOT, c.bundle_signer.public_key.key_id)], "has no key"),
        (lambda c: [AddKey(ROOT, c.owners[0].public_key)], "has the key"),
        (lambda c: [RevokeKey(key_ids(c)[0]), AddKey(ROOT, c.owners[0].public_key)], "never undone"),
        (lambda c: [RevokeKey(key_ids(c)[0]), RevokeKey(key_ids(c)[0])], "revoked already"),
        (lambda c: [ExtendKey("ab" * 32)], "no role has the key"),
        (lambda c: [RevokeKey("not-hex")], "no such root can be"),
        (lambda c: [SetMinSidecar("new")], "no such root can be"),
    ],
)
def test_what_no_host_would_follow_is_refused_with_what_to_do(ceremony: Ceremony, changes: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ceremony.next(*changes(ceremony))
    assert said in caught.value.message


def test_root_keys_that_together_would_need_too_many_signatures_are_not_exchanged_at_once() -> None:
    ceremony = Ceremony(9, 9)
    others = [AddKey(ROOT, PrivateKeySigner.generate().public_key) for _ in range(9)]
    remove = [RemoveKey(ROOT, key_id) for key_id in key_ids(ceremony)]
    with pytest.raises(UsageError, match="18 signatures, more than 16"):
        ceremony.next(*others, *remove)
    assert ceremony.next(*others[:7], *remove[:7]).version == 2


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("root", ROOT),
        ("heartbeat", HEARTBEAT),
        ("bundle", BUNDLE),
        ("rollback", RoleName("rollback", SCOPE)),
        ("bundle:global", RoleName("bundle", "global")),
        ("rollback:org/acme/user/z", RoleName("rollback", "org/acme/user/z")),
    ],
)
def test_roles_are_written_as_they_are_shown(text: str, role: RoleName) -> None:
    assert parse_role(text, ORG) == role
    assert parse_role(str(role), ORG) == role


@pytest.mark.parametrize(
    "text", ["", "Root", "root:global", "bundle:", "bundle:org/other", "bundle:org", "heartbeat:x"]
)
def test_no_other_text_is_a_role(text: str) -> None:
    with pytest.raises(UsageError):
        parse_role(text, ORG)


# --- whatever the changes ---------------------------------------------------------------------------------------------

KEYS = [PrivateKeySigner.generate() for _ in range(7)]
A_KEY = st.sampled_from([signer.public_key for signer in KEYS])
A_KEY_ID = A_KEY.map(lambda key: key.key_id)
A_ROLE = st.sampled_from(ROLES)
A_THRESHOLD = st.builds(SetThreshold, A_ROLE, st.integers(0, 4))
A_CHANGE = st.one_of(
    st.builds(AddKey, A_ROLE, A_KEY),
    st.builds(AddKey, st.just(ROOT), A_KEY),
    st.builds(RemoveKey, A_ROLE, A_KEY_ID),
    st.builds(RevokeKey, A_KEY_ID),
    A_THRESHOLD,
    st.builds(DropRole, A_ROLE),
    st.builds(ExtendKey, A_KEY_ID),
    st.builds(SetGrants, st.sampled_from(["global", SCOPE]), st.booleans()),
    st.just(NewEpoch()),
)


@given(st.lists(st.lists(A_CHANGE, max_size=5), max_size=8), st.lists(st.integers(0, 10**6), min_size=8, max_size=8))
def test_hosts_follow_every_root_that_can_be_made_when_both_thresholds_sign_and_only_then(
    steps: list[list[Change]], pauses: list[int]
) -> None:
    ceremony = Ceremony(2, 1)
    host, root, now = ceremony.judge(), ceremony.root, NOW
    everybody = [*KEYS, *ceremony.owners]
    for changes, pause in zip(steps, pauses, strict=False):
        now += pause
        try:
            changed = next_root(root, changes, now)
        except UsageError:
            continue
        assert parse_root(changed.to_bytes())[0] == changed
        assert {**root.revoked, **changed.revoked} == changed.revoked
        used = {key_id for role in changed.all_roles() for key_id in role.keys}
        assert used <= changed.keys.keys() <= used | changed.revoked.keys()
        signers = fewest(root, changed, everybody)
        for absent in signers:
            with pytest.raises((RootThresholdOld, RootThresholdNew)):
                host.judge_root(signed(changed, [s for s in signers if s is not absent]), now)
        host.accept_root(host.judge_root(signed(changed, signers), now))
        root = changed


def signed(root: Root, signers: Sequence[Signer]) -> SignedEnvelope:
    # An envelope without signatures is refused as such, before anybody counts.
    return sign(PayloadType.ROOT, root.to_bytes(), signers or [PrivateKeySigner.generate()])
