"""Who may do what."""

from __future__ import annotations

import pytest

from akpolicy.errors import InvalidField, PermissionDenied
from akpolicy_server.access import (
    Caller,
    Role,
    check_publishable_scope,
    require_admin_of,
    require_host,
    require_platform_admin,
    require_publisher,
    scope_of_org,
)

PLATFORM_ADMIN = Caller("k1", Role.ADMIN, None)
PLATFORM_PUBLISHER = Caller("k2", Role.PUBLISHER, None)
ACME_ADMIN = Caller("k3", Role.ADMIN, "acme")
ACME_PUBLISHER = Caller("k4", Role.PUBLISHER, "acme")
ACME_HOST = Caller("k5", Role.HOST, "acme", "host-1")


def _allows(check: object, *arguments: object) -> bool:
    try:
        check(*arguments)  # type: ignore[operator]
    except PermissionDenied:
        return False
    return True


@pytest.mark.parametrize(
    ("caller", "reach"),
    [
        (PLATFORM_ADMIN, {"global", "org/acme", "org/globex"}),
        (PLATFORM_PUBLISHER, {"global"}),
        (ACME_ADMIN, {"org/acme"}),
        (ACME_PUBLISHER, {"org/acme"}),
        (ACME_HOST, set()),
    ],
)
def test_a_key_publishes_within_its_reach_only(caller: Caller, reach: set[str]) -> None:
    scopes = {"global", "org/acme", "org/globex", "org/acme2"}
    if caller is PLATFORM_ADMIN:
        reach = scopes
    assert {scope for scope in scopes if _allows(require_publisher, caller, scope)} == reach


@pytest.mark.parametrize(
    ("caller", "reach"),
    [
        (PLATFORM_ADMIN, {None, "acme", "globex"}),
        (PLATFORM_PUBLISHER, set()),
        (ACME_ADMIN, {"acme"}),
        (ACME_PUBLISHER, set()),
        (ACME_HOST, set()),
    ],
)
def test_only_admins_manage_keys_and_only_their_orgs(caller: Caller, reach: set[str | None]) -> None:
    assert {org for org in (None, "acme", "globex") if _allows(require_admin_of, caller, org)} == reach


@pytest.mark.parametrize("caller", [PLATFORM_PUBLISHER, ACME_ADMIN, ACME_PUBLISHER, ACME_HOST])
def test_only_a_platform_admin_is_one(caller: Caller) -> None:
    require_platform_admin(PLATFORM_ADMIN)
    with pytest.raises(PermissionDenied):
        require_platform_admin(caller)


@pytest.mark.parametrize("caller", [PLATFORM_ADMIN, PLATFORM_PUBLISHER, ACME_ADMIN, ACME_PUBLISHER])
def test_only_a_host_subscribes(caller: Caller) -> None:
    assert require_host(ACME_HOST) == ("acme", "host-1")
    with pytest.raises(PermissionDenied):
        require_host(caller)


@pytest.mark.parametrize(
    "scope", ["global", "org/acme", "org/A-1_b", "org/acme/team/red", "org/acme/user/a%2540b.c", "org/a/user/okta%2Fb"]
)
def test_every_layer_can_be_published(scope: str) -> None:
    assert check_publishable_scope(scope) == scope


@pytest.mark.parametrize("org", ["", "-a", "acme/team/red", "acme/user/alice", "a b"])
def test_what_is_no_org_names_no_scope_of_one(org: str) -> None:
    assert scope_of_org("acme") == "org/acme"
    with pytest.raises(InvalidField, match="is not an org name"):
        scope_of_org(org)


@pytest.mark.parametrize(
    "scope",
    ["", "Global", "org/", "org/acme/", "org/-a", "org/acme/team/", "org/a b", "../etc", "org/acme/user/local%2Falice"],
)
def test_what_is_no_scope_is_refused(scope: str) -> None:
    with pytest.raises(InvalidField):
        check_publishable_scope(scope)
