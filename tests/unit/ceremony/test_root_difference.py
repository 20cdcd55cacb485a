"""What a person is told before signing a root: everything that differs, and nothing that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.errors import UsageError
from akpolicy.role_name import RoleName
from akpolicy.root_change import (
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
from akpolicy.root_difference import differences, short_id
from akpolicy.signing import PrivateKeySigner
from tests.unit.ceremony.people import NOW, SCOPE, Ceremony

if TYPE_CHECKING:
    from akpolicy.root import Root

ROOT = RoleName("root")
BUNDLE = RoleName("bundle", SCOPE)
CEREMONY = Ceremony()
OWNER = CEREMONY.owners[0].public_key.key_id
NEW = PrivateKeySigner.generate().public_key


def lines(*changes: Change) -> list[str]:
    return differences(CEREMONY.root, CEREMONY.next(*changes, now=NOW + 1000))


def test_a_root_that_only_lives_longer_says_just_that() -> None:
    assert lines() == [
        "version: 1 -> 2",
        "expires: 2028-01-15T08:00:00Z -> 2028-01-15T08:16:40Z, 365 days after it was issued",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([AddKey(ROOT, NEW)], [f"role `root`: + key {NEW.key_id}, valid until 2029-01-14T08:16:40Z"]),
        ([AddKey(ROOT, NEW)], ["role `root`: 2 of 3 -> 2 of 4 must sign"]),
        ([SetThreshold(ROOT, 3)], ["role `root`: 2 of 3 -> 3 of 3 must sign"]),
        (
            [RemoveKey(ROOT, OWNER)],
            [f"role `root`: - key {short_id(OWNER)}", "role `root`: 2 of 3 -> 2 of 2 must sign"],
        ),
        ([RevokeKey(OWNER)], [f"revoked for good: key {OWNER}, since 2027-01-15T08:16:40Z"]),
        ([NewEpoch()], ["epoch: 1 -> 2; hosts take no bundle of an earlier epoch any more"]),
        ([SetMinSidecar("0.2.0")], ["sidecars: 0.2.0 or newer"]),
        ([SetGrants(SCOPE, grants=False)], ["role `bundle:org/acme`: may only forbid"]),
        ([DropRole(RoleName("heartbeat"))], ["role `heartbeat`: dropped; nobody may sign this any more"]),
        (
            [ExtendKey(OWNER)],
            [
                (
                    f"key {short_id(OWNER)}: valid 2027-01-15T08:00:00Z to 2029-01-14T08:16:40Z, "
                    "before to 2029-01-14T08:00:00Z"
                )
            ],
        ),
        (
            [AddKey(RoleName("bundle", f"{SCOPE}/team/red"), NEW)],
            ["role `bundle:org/acme/team/red`: new, 1 of 1 must sign"],
        ),
    ],
)
def test_each_change_is_said(changes: list[Change], said: list[str]) -> None:
    assert set(said) <= set(lines(*changes))


def test_a_first_root_is_told_whole() -> None:
    told = "\n".join(differences(None, CEREMONY.root))
    assert "first root of `acme`, version 1, epoch 1" in told
    for signer in (*CEREMONY.owners, *CEREMONY.online):
        assert signer.public_key.key_id in told


def test_a_revocation_that_is_undone_is_said_though_no_host_accepts_it() -> None:
    revoked = CEREMONY.next(RevokeKey(OWNER))
    undone = revoked.model_copy(update={"revoked": {}})
    moved = revoked.model_copy(update={"revoked": {OWNER: NOW + 1}})
    assert f"revocation undone: key {OWNER}; no host accepts that" in differences(revoked, undone)
    assert f"revocation moved: key {OWNER}; no host accepts that" in differences(revoked, moved)


def told_again(old: Root, new: Root) -> list[str]:
    return [line for line in differences(old, new) if not line.startswith(("version: ", "expires: "))]


POOL = [*(owner.public_key for owner in CEREMONY.owners), NEW]
A_CHANGE = st.one_of(
    st.builds(AddKey, st.sampled_from([ROOT, BUNDLE]), st.sampled_from(POOL)),
    st.builds(RemoveKey, st.just(ROOT), st.sampled_from(POOL).map(lambda key: key.key_id)),
    st.builds(SetThreshold, st.just(ROOT), st.integers(1, 4)),
    st.builds(SetGrants, st.just(SCOPE), st.booleans()),
    st.builds(ExtendKey, st.just(OWNER)),
    st.builds(RevokeKey, st.sampled_from(POOL).map(lambda key: key.key_id)),
    st.just(NewEpoch()),
)


@given(st.lists(A_CHANGE, max_size=4))
def test_two_roots_without_a_line_between_them_say_the_same(changes: list[Change]) -> None:
    try:
        new = next_root(CEREMONY.root, changes, NOW + 7)
    except UsageError:
        return
    said = told_again(CEREMONY.root, new)
    old = CEREMONY.root
    same = (old.roles, old.keys, old.revoked, old.epoch) == (new.roles, new.keys, new.revoked, new.epoch)
    assert same == (not said)
