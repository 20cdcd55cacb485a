"""API keys: their form, their check, their end."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from akpolicy.errors import InvalidField, KeyNotFound, LastAdminKey, OrgNotFound, PermissionDenied, Unauthenticated
from akpolicy_server.access import Caller, Role
from akpolicy_server.api_keys import ApiKeys, NewApiKey
from akpolicy_server.store.tables import api_keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.server.conftest import Core


def _create(core: Core, caller: Caller, org: str | None, role: Role, host_id: str = "") -> NewApiKey:
    return core.api_keys.create(caller, org=org, role=role, host_id=host_id, description="")


def test_a_key_has_the_documented_form_and_opens_what_it_was_made_for(core: Core) -> None:
    made = _create(core, core.admin, "acme", Role.HOST, "host-1")
    assert re.fullmatch(r"akp_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", made.secret)
    assert core.api_keys.authenticate(made.secret) == Caller(made.key_id, Role.HOST, "acme", "host-1")


def test_the_secret_is_nowhere_on_disk_and_in_no_repr(core: Core, tmp_path: Path) -> None:
    made = _create(core, core.admin, "acme", Role.PUBLISHER)
    random_part = made.secret.split("_", 2)[2]
    assert random_part not in repr(made)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and random_part.encode() in path.read_bytes()]


def test_a_changed_secret_is_refused(core: Core) -> None:
    secret = _create(core, core.admin, "acme", Role.PUBLISHER).secret
    changed = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    with pytest.raises(Unauthenticated):
        core.api_keys.authenticate(changed)


def test_an_unknown_and_a_revoked_key_are_refused_in_the_same_words(core: Core) -> None:
    made = _create(core, core.admin, "acme", Role.PUBLISHER)
    core.api_keys.revoke(core.admin, made.key_id)
    unknown = made.secret.replace(made.key_id, "0" * 16)
    messages = set()
    for secret in (made.secret, unknown):
        with pytest.raises(Unauthenticated) as caught:
            core.api_keys.authenticate(secret)
        messages.add(caught.value.message)
    assert len(messages) == 1


@given(st.text(max_size=80))
def test_what_is_no_key_never_reaches_the_database(text: str) -> None:
    keys = ApiKeys(None, None, on_revoked=lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated) as caught:
        keys.authenticate(text)
    assert not text.strip() or len(text) < 8 or text not in caught.value.message


def test_a_revocation_is_announced_and_keeps_its_first_time(core: Core) -> None:
    made = _create(core, core.admin, "acme", Role.PUBLISHER)
    first = core.api_keys.revoke(core.admin, made.key_id)
    core.clock.advance(60)
    assert core.api_keys.revoke(core.admin, made.key_id) == first
    assert core.revoked == [made.key_id, made.key_id]


def test_an_orgs_admin_reaches_no_other_orgs_keys(core: Core) -> None:
    admin = core.api_keys.authenticate(_create(core, core.admin, "acme", Role.ADMIN).secret)
    foreign = _create(core, core.admin, "globex", Role.PUBLISHER)
    with pytest.raises(PermissionDenied):
        _create(core, admin, "globex", Role.PUBLISHER)
    with pytest.raises(PermissionDenied):
        _create(core, admin, None, Role.ADMIN)
    with pytest.raises(KeyNotFound):
        core.api_keys.revoke(admin, foreign.key_id)
    with pytest.raises(KeyNotFound):
        core.api_keys.revoke(admin, core.admin.key_id)
    assert core.revoked == []
    own = _create(core, admin, "acme", Role.HOST, "h")
    core.api_keys.revoke(admin, own.key_id)


def test_a_publisher_manages_no_keys(core: Core) -> None:
    caller = core.publisher_of("acme")
    with pytest.raises(PermissionDenied):
        _create(core, caller, "acme", Role.HOST, "h")
    with pytest.raises(PermissionDenied):
        core.api_keys.revoke(caller, caller.key_id)


@pytest.mark.parametrize(
    ("org", "role", "host_id"),
    [
        ("acme", Role.HOST, ""),
        ("acme", Role.HOST, "a/b"),
        ("acme", Role.HOST, "x" * 129),
        (None, Role.HOST, "host-1"),
        ("acme", Role.PUBLISHER, "host-1"),
        ("-acme", Role.PUBLISHER, ""),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(core: Core, org: str | None, role: Role, host_id: str) -> None:
    with pytest.raises(InvalidField):
        _create(core, core.admin, org, role, host_id)


@pytest.mark.parametrize("description", ["x" * 201, "two\nlines", "\0"])
def test_a_description_is_short_and_printable(core: Core, description: str) -> None:
    with pytest.raises(InvalidField):
        core.api_keys.create(core.admin, org="acme", role=Role.ADMIN, host_id="", description=description)


def test_a_key_needs_an_org_that_exists(core: Core) -> None:
    with pytest.raises(OrgNotFound):
        _create(core, core.admin, "nobody", Role.PUBLISHER)


def test_the_last_admin_key_of_the_platform_cannot_be_revoked_and_an_earlier_one_can(core: Core) -> None:
    with pytest.raises(LastAdminKey, match="make another one first"):
        core.api_keys.revoke(core.admin, core.admin.key_id)
    org_admin = core.api_keys.create(core.admin, org="acme", role=Role.ADMIN, host_id="", description="")
    with pytest.raises(LastAdminKey):
        core.api_keys.revoke(core.admin, core.admin.key_id)
    other = core.api_keys.create(core.admin, org=None, role=Role.ADMIN, host_id="", description="")
    core.api_keys.revoke(core.admin, core.admin.key_id)
    assert core.revoked == [core.admin.key_id]
    assert core.api_keys.authenticate(other.secret).is_platform_admin
    core.api_keys.revoke(core.api_keys.authenticate(other.secret), org_admin.key_id)


def test_an_admin_whose_key_was_revoked_since_the_call_began_makes_and_revokes_no_key(core: Core) -> None:
    caller = core.api_keys.authenticate(_create(core, core.admin, None, Role.ADMIN).secret)
    kept = _create(core, core.admin, "acme", Role.PUBLISHER)
    core.api_keys.revoke(core.admin, caller.key_id)
    with core.database.read() as connection:
        before = connection.scalar(select(func.count()).select_from(api_keys))
    with pytest.raises(Unauthenticated, match="revoked"):
        _create(core, caller, "acme", Role.PUBLISHER)
    with pytest.raises(Unauthenticated, match="revoked"):
        core.api_keys.revoke(caller, kept.key_id)
    with core.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(api_keys)) == before
    assert core.api_keys.authenticate(kept.secret).key_id == kept.key_id
    assert core.revoked == [caller.key_id]


def test_a_caller_without_a_stored_key_changes_nothing(core: Core) -> None:
    with pytest.raises(Unauthenticated):
        _create(core, Caller("0" * 16, Role.ADMIN, None), "acme", Role.PUBLISHER)
