"""Scopes: one spelling each, and prefixes by whole segments."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.errors import FieldInvalid
from akpolicy.scope import (
    GLOBAL,
    LOCAL_ISSUER,
    check_scope,
    covers,
    is_member_scope,
    is_org_name,
    is_team_scope,
    org_of,
    org_scope,
    specificity,
    team_scope,
    user_of,
    user_scope,
)

ORGS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,10}[A-Za-z0-9])?", fullmatch=True)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda n: n not in (".", "..")
)
ISSUERS = st.just(LOCAL_ISSUER) | st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
USERS = st.tuples(ORGS, ISSUERS, NAMES)
SCOPES = st.one_of(
    st.just(GLOBAL),
    ORGS.map(org_scope),
    st.builds(team_scope, ORGS, NAMES),
    USERS.map(lambda user: user_scope(*user)),
)
# Names that look like what separates and encodes.
TRICKY = st.text(st.sampled_from("/%25Flocal.okta@"), min_size=1, max_size=10)


@given(SCOPES)
def test_a_scope_is_its_own_spelling(scope: str) -> None:
    assert check_scope(scope) == scope


@given(SCOPES, SCOPES)
def test_a_prefix_covers_whole_segments(prefix: str, scope: str) -> None:
    segments, wanted = scope.split("/"), prefix.split("/")
    assert covers(prefix, scope) == (segments[: len(wanted)] == wanted)


@given(SCOPES, st.text(st.sampled_from("abz09-_~%."), min_size=1, max_size=3))
def test_a_longer_name_is_not_covered(prefix: str, more: str) -> None:
    assert covers(prefix, prefix)
    assert covers(prefix, f"{prefix}/{more}")
    assert not covers(prefix, prefix + more)


@given(SCOPES)
def test_what_a_scope_belongs_to_covers_it_and_is_broader(scope: str) -> None:
    org = org_of(scope)
    if org is None:
        assert scope == GLOBAL
        return
    assert covers(org_scope(org), scope)
    assert specificity(GLOBAL) < specificity(org_scope(org)) <= specificity(scope)


@given(USERS | st.tuples(ORGS, st.sampled_from(["local", "okta"]), TRICKY))
def test_a_user_is_told_by_its_scope(user: tuple[str, str, str]) -> None:
    org, issuer, subject = user
    scope = user_scope(org, issuer, subject)

    assert (org_of(scope), user_of(scope)) == (org, (issuer, subject))
    assert is_member_scope(scope)
    assert not is_team_scope(scope)
    if subject not in (".", ".."):
        assert check_scope(scope) == scope


@given(st.tuples(st.sampled_from(["local", "okta"]), TRICKY), st.tuples(st.sampled_from(["local", "okta"]), TRICKY))
def test_no_two_users_share_a_scope(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (user_scope("a", *one) == user_scope("a", *other)) == (one == other)


@given(TRICKY.map(lambda text: f"org/a/user/{text}") | TRICKY.map(lambda text: f"org/a/user/{quote(text, safe='')}"))
def test_a_user_has_one_spelling(text: str) -> None:
    try:
        scope = check_scope(text)
    except FieldInvalid:
        return
    user = user_of(scope)
    assert user is not None
    assert user_scope("a", *user) == scope


@given(ORGS, NAMES)
def test_a_team_is_told_by_its_scope(org: str, name: str) -> None:
    scope = team_scope(org, name)
    assert check_scope(scope) == scope
    assert (is_team_scope(scope), is_member_scope(scope), user_of(scope), org_of(scope)) == (True, True, None, org)


def test_a_scope_of_all_is_of_no_member() -> None:
    assert [is_member_scope(scope) or user_of(scope) for scope in (GLOBAL, "org/a")] == [None, None]


@pytest.mark.parametrize(
    ("issuer", "subject", "segment"),
    [
        ("local", "alice", "alice"),
        ("local", "a@acme.com", "a%2540acme.com"),
        ("local", "okta/alice", "okta%252Falice"),
        ("okta", "alice", "okta%2Falice"),
        ("okta", "a/b", "okta%2Fa%252Fb"),
    ],
)
def test_users_are_spelled_by_issuer_and_subject(issuer: str, subject: str, segment: str) -> None:
    assert user_scope("acme", issuer, subject) == f"org/acme/user/{segment}"


def test_layers_go_from_broad_to_specific() -> None:
    scopes = ["global", "org/a", "org/a/team/t", "org/a/user/u"]
    assert [specificity(scope) for scope in scopes] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["a%2Fb", "...", "%25", "%C3%BC", "%EF%BF%BD", "a~b", "X"])
def test_a_member_may_have_any_name(name: str) -> None:
    assert check_scope(f"org/a/team/{name}") == f"org/a/team/{name}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "Global",
        "global/",
        "global/org",
        "org",
        "org/",
        "org/-a",
        "org/a_",
        "org/" + "a" * 64,
        "org/a/team",
        "org/a/team/",
        "org/a/host/h",
        "org/a/user/local%2Falice",
        "org/a/user/%2Falice",
        "org/a/user/okta%2F",
        "org/a/user/okta%2F.",
        "org/a/user/okta%2Fa%2Fb",
        "org/a/user/-okta%2Falice",
        "org/a/user/" + "i" * 64 + "%2Falice",
        "org/a/user/a%40b.c",
        "org/a/user/%252E%252E",
        "org/a/team/t/x",
        "org/a/team/.",
        "org/a/team/%2E",
        "org/a/team/%2e%2e",
        "org/a/team/a%2fb",
        "org/a/team/%41",
        "org/a/team/a b",
        "org/a/team/%",
        "org/a/team/%zz",
        "org/a/team/%FF",
        "org/a/team/%ED%A0%80",
        "org/a/team/\ud800",
        "org/a/team/%2f",
        "org/a/team/\u00fc",
        "org/a/team/" + "t" * 512,
        "org/\u0661",
        "org/a\n",
    ],
)
def test_what_is_no_scope_or_another_spelling_of_one_is_refused(text: str) -> None:
    with pytest.raises(FieldInvalid, match="is not a scope; write `global`, "):
        check_scope(text)


@pytest.mark.parametrize("name", ["a", "A-1_b", "0", "a" * 63])
def test_org_names_are_those_of_agent_platforms(name: str) -> None:
    assert is_org_name(name)


@pytest.mark.parametrize(
    ("name", "segment"), [("a/b", "a%2Fb"), ("a b", "a%20b"), ("X-x_x.~", "X-x_x.~"), ("%", "%25")]
)
def test_a_slash_in_a_team_s_name_is_no_segment_of_its_own(name: str, segment: str) -> None:
    assert team_scope("acme", name) == check_scope(f"org/acme/team/{segment}")
