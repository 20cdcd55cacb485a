"""Permissions follow from decisions, and are never more than what was asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.permissions import (
    MOUNTS,
    NOTHING,
    PROFILES,
    Effective,
    Permissions,
    inquiries,
    permissions_from_decision,
)
from akpolicy.engine.verdict import Determining, Effect, Reason, Verdict
from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

ALL = Permissions(network=True, mount_cwd=True, mount_home=True, pass_env=True, allow_privileged=True)
ABOUT = ("Create", "Run", "network", *MOUNTS)
Annotations = dict[str, dict[str, str]]


def decisions(*denied: str, permits: tuple[str, ...] = ("p",)) -> dict[str, Verdict]:
    by = tuple(Determining("org/acme", policy, Effect.ALLOW) for policy in permits)
    allow = Verdict(Effect.ALLOW, Reason.PERMITTED, "allowed by `org/acme/p`", by)
    forbid = Determining("global", "f", Effect.DENY)
    deny = Verdict(Effect.DENY, Reason.FORBIDDEN, "denied: forbidden by `global/f`", (forbid,))
    return {about: deny if about in denied else allow for about in ABOUT}


def effective(
    requested: Permissions, decided: Mapping[str, Verdict] | None = None, annotations: Annotations | None = None
) -> Effective:
    known = annotations or {}
    return permissions_from_decision(
        requested, decisions() if decided is None else decided, lambda policy: known.get(policy.policy_id, {})
    )


@pytest.mark.parametrize("action", ["Create", "Run"])
def test_a_sandbox_that_may_not_run_gets_nothing(action: str) -> None:
    found = effective(ALL, decisions(action))

    assert (found.granted, found.permissions) == (False, NOTHING)
    [restriction] = found.restrictions
    assert (restriction.field, restriction.policy) == (action, "global/f")


def test_what_was_not_asked_about_is_denied() -> None:
    assert not effective(ALL, {}).granted
    without = {about: decision for about, decision in decisions().items() if about != "network"}
    assert not effective(ALL, without).permissions.network


@pytest.mark.parametrize("name", ["network", *MOUNTS])
def test_a_denied_question_takes_its_permission_and_names_the_policy(name: str) -> None:
    found = effective(ALL, decisions(name), {"p": {"pass_env": "true", "allow_privileged": "true"}})

    assert found.permissions == replace(ALL, **{name: False})  # type: ignore[arg-type] # names of flags
    assert [(one.field, one.policy) for one in found.restrictions] == [(name, "global/f")]


@pytest.mark.parametrize("name", ["pass_env", "allow_privileged"])
def test_some_permissions_need_a_permit_that_says_so(name: str) -> None:
    without, with_it = effective(ALL), effective(ALL, annotations={"p": {name: "true"}})

    assert not getattr(without.permissions, name)
    assert name in {one.field for one in without.restrictions}
    assert getattr(with_it.permissions, name)
    assert getattr(effective(ALL, annotations={"p": {name: "false"}}).permissions, name) is False


def test_the_strictest_cap_holds_and_names_its_policy() -> None:
    annotations: Annotations = {
        "a": {"max_memory_mb": "4096", "max_cpu_percent": "50"},
        "b": {"max_memory_mb": "1024", "read_only_root": "true", "seccomp": "strict"},
    }
    found = effective(Permissions(max_cpu_percent=20), decisions(permits=("a", "b")), annotations)

    assert found.permissions == Permissions(
        read_only_root=True, max_memory_mb=1024, max_cpu_percent=20, seccomp="strict"
    )
    named = {one.field: (one.requested, one.granted, one.policy) for one in found.restrictions}
    assert named == {
        "max_memory_mb": (None, 1024, "org/acme/b"),
        "read_only_root": (False, True, "org/acme/b"),
        "seccomp": (None, "strict", "org/acme/b"),
    }


def test_what_asks_for_less_than_the_caps_is_not_restricted() -> None:
    requested = Permissions(read_only_root=True, max_memory_mb=10, max_cpu_percent=10, seccomp="strict")
    caps = {"max_memory_mb": "10", "max_cpu_percent": "20", "seccomp": "strict", "read_only_root": "true"}

    assert effective(requested, annotations={"p": caps}) == Effective(True, requested, ())


@pytest.mark.parametrize(("asked", "demanded"), [(None, ("a", "b")), ("a", ("b",)), ("c", ("a", "b"))])
def test_different_seccomp_profiles_refuse(asked: str | None, demanded: tuple[str, ...]) -> None:
    annotations = {profile: {"seccomp": profile} for profile in demanded}

    found = effective(Permissions(seccomp=asked), decisions(permits=demanded), annotations)

    assert (found.granted, found.permissions) == (False, NOTHING)
    assert all(profile in found.restrictions[0].message for profile in demanded)


def test_questions_are_asked_about_what_is_wanted_and_nothing_else() -> None:
    assert [one.about for one in inquiries(PROFILES["restrictive"])] == ["Create", "Run"]
    assert [one.about for one in inquiries(PROFILES["moderate"])] == ["Create", "Run", "network"]
    asked = inquiries(PROFILES["permissive"], cwd="/src", home="/root")
    assert {one.about: one.context for one in asked if one.action == "Mount"} == {
        "mount_cwd": {"host_path": "/src", "read_only": False},
        "mount_home": {"host_path": "/root", "read_only": False},
    }


@pytest.mark.parametrize(
    ("requested", "paths", "field"),
    [
        (Permissions(mount_cwd=True), {}, "paths.cwd"),
        (Permissions(mount_home=True), {"cwd": "/src"}, "paths.home"),
        (Permissions(mount_cwd=True), {"cwd": "src"}, "paths.cwd"),
        (Permissions(max_memory_mb=0), {}, "requested.max_memory_mb"),
        (Permissions(max_cpu_percent=-1), {}, "requested.max_cpu_percent"),
    ],
)
def test_what_cannot_be_asked_is_refused(requested: Permissions, paths: dict[str, str], field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        inquiries(requested, **paths)

    assert caught.value.field == field


# --- restrict only ----------------------------------------------------------------------------------------------------

_CAP = st.none() | st.integers(1, 5)
_REQUESTED = st.builds(Permissions, *[st.booleans()] * 6, _CAP, _CAP, st.none() | st.sampled_from("ab"))
_ANNOTATIONS = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.sampled_from(["true", "false"]) for name in ("pass_env", "allow_privileged", "read_only_root")},
        **{name: st.integers(1, 5).map(str) for name in ("max_memory_mb", "max_cpu_percent")},
        "seccomp": st.sampled_from("ab"),
    },
)


def at_most(less: Permissions, more: Permissions) -> bool:
    """Whether nothing in `less` is more than in `more`."""
    flags = all(getattr(more, name) or not getattr(less, name) for name in ("network", *MOUNTS, "pass_env"))
    privileged = more.allow_privileged or not less.allow_privileged
    root = less.read_only_root or not more.read_only_root
    caps = all(
        getattr(more, name) is None or (getattr(less, name) is not None and getattr(less, name) <= getattr(more, name))
        for name in ("max_memory_mb", "max_cpu_percent")
    )
    return flags and privileged and root and caps and more.seccomp in {None, less.seccomp}


@given(requested=_REQUESTED, denied=st.sets(st.sampled_from(ABOUT)), annotations=st.lists(_ANNOTATIONS, max_size=3))
def test_nothing_is_ever_more_than_was_asked_for(
    requested: Permissions, denied: set[str], annotations: list[dict[str, str]]
) -> None:
    known = {f"p{number}": one for number, one in enumerate(annotations)}
    found = effective(requested, decisions(*denied, permits=tuple(known)), known)

    if found.granted:
        assert at_most(found.permissions, requested)
        changed = {
            name for name in Permissions.__slots__ if getattr(requested, name) != getattr(found.permissions, name)
        }
        assert changed == {one.field for one in found.restrictions}
    else:
        assert found.permissions == NOTHING
        assert found.restrictions


@given(requested=_REQUESTED, annotations=st.lists(_ANNOTATIONS, min_size=1, max_size=3))
def test_what_is_granted_is_granted_again(requested: Permissions, annotations: list[dict[str, str]]) -> None:
    known = {f"p{number}": one for number, one in enumerate(annotations)}
    first = effective(requested, decisions(permits=tuple(known)), known)

    if first.granted:
        assert effective(first.permissions, decisions(permits=tuple(known)), known) == Effective(
            True, first.permissions, ()
        )
