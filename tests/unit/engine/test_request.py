"""Requests: ids are built, limits hold, and no value of the caller becomes something else."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.cedar_request import CedarRequest, build
from akpolicy.engine.limits import MAX_ATTRIBUTES, MAX_ID_CHARS, MAX_STRING_CHARS, MAX_VALUE_DEPTH
from akpolicy.engine.request import (
    AuthorizationRequest,
    CedarValue,
    EntityRef,
    ExtensionCall,
    Principal,
    Resource,
    foreign_org,
    request_from_json,
)
from akpolicy.errors import RequestInvalid

_ALICE = Principal("alice", "acme")
_BOX = Resource("box")


def _build(
    request: AuthorizationRequest, *, source: str = "runtime", default_roles: tuple[str, ...] = ()
) -> CedarRequest:
    return build(request, org="acme", source=source, default_roles=default_roles)


def _entity(request: CedarRequest, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(request.entities.text)
    return next(entity for entity in found if entity["uid"]["type"] == f"AgentKernel::{kind}")


def _nested(depth: int) -> CedarValue:
    value: CedarValue = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_ids_are_built_from_org_and_encoded_names() -> None:
    built = _build(AuthorizationRequest(Principal("a/b c", "acme"), "Run", Resource("x%/é")))

    assert built.principal == {"type": "AgentKernel::User", "id": "acme/local/a%2Fb%20c"}
    assert built.action == {"type": "AgentKernel::Action", "id": "Run"}
    assert built.resource == {"type": "AgentKernel::Sandbox", "id": "acme/x%25%2F%C3%A9"}
    assert built.principal == {"type": "AgentKernel::User", "id": "acme/local/a%2Fb%20c"}
    assert built.action == {"type": "AgentKernel::Action", "id": "Run"}
    assert built.resource == {"type": "AgentKernel::Sandbox", "id": "acme/x%25%2F%C3%A9"}


_SUBJECTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)


@given(_SUBJECTS, _SUBJECTS)
def test_two_subjects_never_share_an_id(one: str, other: str) -> None:
    ids = [_build(AuthorizationRequest(Principal(s, "acme"), "Run", _BOX)).principal["id"] for s in (one, other)]

    assert (ids[0] == ids[1]) == (one == other)
    assert all(identifier.count("/") == 2 for identifier in ids)


def test_every_entity_is_given_once_with_its_parents() -> None:
    principal = Principal("alice", "acme", teams=("red", "blue", "red"))
    built = _build(AuthorizationRequest(principal, "Run", Resource("box", teams=("blue",))))
    org, red, blue = [
        {"type": f"AgentKernel::{kind}", "id": name}
        for kind, name in (("Org", "acme"), ("Team", "acme/red"), ("Team", "acme/blue"))
    ]

    found = {json.dumps(entity["uid"]): entity["parents"] for entity in json.loads(built.entities.text)}

    assert len(found) == len(json.loads(built.entities.text)) == 5
    assert found[json.dumps(built.principal)] == [red, blue, org]
    assert found[json.dumps(built.resource)] == [blue, org]
    assert (found[json.dumps(red)], found[json.dumps(blue)], found[json.dumps(org)]) == ([org], [org], [])


def test_a_user_has_what_the_request_states() -> None:
    principal = Principal("a", "acme", "a@x", ("dev",), ("t",), mfa_verified=True, attributes={"level": 3})

    assert _entity(_build(AuthorizationRequest(principal, "Run", _BOX)), "User")["attrs"] == {
        "email": "a@x",
        "org_id": "acme",
        "roles": ["dev"],
        "teams": ["t"],
        "mfa_verified": True,
        "level": 3,
    }


def test_default_roles_are_those_of_a_user_without_roles() -> None:
    none = _build(AuthorizationRequest(_ALICE, "Run", _BOX), default_roles=("viewer",))
    some = _build(AuthorizationRequest(Principal("a", "acme", roles=("x",)), "Run", _BOX), default_roles=("viewer",))

    assert _entity(none, "User")["attrs"]["roles"] == ["viewer"]
    assert _entity(some, "User")["attrs"]["roles"] == ["x"]


def test_a_sandbox_without_a_name_is_called_by_its_id() -> None:
    named = Resource("box", attributes={"name": "other"})

    assert _entity(_build(AuthorizationRequest(_ALICE, "Run", _BOX)), "Sandbox")["attrs"] == {"name": "box"}
    assert _entity(_build(AuthorizationRequest(_ALICE, "Run", named)), "Sandbox")["attrs"] == {"name": "other"}
    permission = _build(AuthorizationRequest(_ALICE, "Run", Resource("p", "Permission")))
    assert _entity(permission, "Permission")["attrs"] == {}


def test_the_source_is_set_by_the_sidecar() -> None:
    built = _build(AuthorizationRequest(_ALICE, "Run", _BOX, {"x": 1}), source="sandbox")

    assert json.loads(built.context) == {"x": 1, "source": "sandbox"}


def test_values_take_their_cedar_form() -> None:
    context: dict[str, CedarValue] = {
        "set": (1, "a", True),
        "record": {"inner": [EntityRef("T", "i")]},
        "ip": ExtensionCall("ip", "10.0.0.1"),
        "least": -(2**63),
    }

    assert json.loads(_build(AuthorizationRequest(_ALICE, "Run", _BOX, context)).context) == {
        "set": [1, "a", True],
        "record": {"inner": [{"__entity": {"type": "T", "id": "i"}}]},
        "ip": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}},
        "least": -(2**63),
        "source": "runtime",
    }


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (AuthorizationRequest(Principal("", "acme"), "Run", _BOX), "principal.id"),
        (AuthorizationRequest(Principal("a", ""), "Run", _BOX), "principal.org_id"),
        (AuthorizationRequest(_ALICE, "", _BOX), "action"),
        (AuthorizationRequest(_ALICE, "Run", Resource("")), "resource.id"),
        (AuthorizationRequest(_ALICE, "\ud800", _BOX), "action"),
        (AuthorizationRequest(Principal("\ud800", "acme"), "Run", _BOX), "principal.id"),
        (AuthorizationRequest(Principal("x" * (MAX_ID_CHARS + 1), "acme"), "Run", _BOX), "principal.id"),
        (AuthorizationRequest(Principal("a", "acme", teams=("",)), "Run", _BOX), "principal.teams"),
        (
            AuthorizationRequest(Principal("a", "acme", teams=tuple(map(str, range(300)))), "Run", _BOX),
            "principal.teams",
        ),
        (AuthorizationRequest(Principal("a", "acme", roles=("x",) * 300), "Run", _BOX), "principal.roles"),
        (AuthorizationRequest(Principal("a", "acme", roles=("\ud800",)), "Run", _BOX), "principal.roles"),
        (AuthorizationRequest(_ALICE, "Run", Resource("b", "User")), "resource.type"),
        (AuthorizationRequest(_ALICE, "Run", Resource("b", "Org")), "resource.type"),
        (AuthorizationRequest(_ALICE, "Run", Resource("b", "A::B")), "resource.type"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"source": "runtime"}), "context.source"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": {"__entity": {"type": "T", "id": "i"}}}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"__extn": 1}), "context"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": ({"__expr": "x"},)}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": 2**63}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": {"b": -(2**63) - 1}}), "context.a.b"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": ExtensionCall("exec", "x")}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": "x" * (MAX_STRING_CHARS + 1)}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {str(i): i for i in range(MAX_ATTRIBUTES + 1)}), "context"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"a": tuple(range(5000))}), "context.a"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"\ud800": 1}), "context.\ud800"),
    ],
)
def test_a_broken_request_is_refused_with_its_field(request_: AuthorizationRequest, field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        _build(request_)

    assert caught.value.field == field


@pytest.mark.parametrize("name", ["email", "org_id", "roles", "teams", "mfa_verified"])
def test_attributes_cannot_replace_what_the_request_states(name: str) -> None:
    principal = Principal("alice", "acme", attributes={name: "x"})

    with pytest.raises(RequestInvalid, match=f"principal.attributes.{name}"):
        _build(AuthorizationRequest(principal, "Run", _BOX))


def test_values_may_nest_to_the_limit_and_not_beyond() -> None:
    _build(AuthorizationRequest(_ALICE, "Run", _BOX, {"a": _nested(MAX_VALUE_DEPTH)}))

    with pytest.raises(RequestInvalid, match="nested"):
        _build(AuthorizationRequest(_ALICE, "Run", _BOX, {"a": _nested(MAX_VALUE_DEPTH + 1)}))


def test_a_very_deep_value_is_refused_and_does_not_exhaust_the_stack() -> None:
    with pytest.raises(RequestInvalid, match="nested"):
        _build(AuthorizationRequest(_ALICE, "Run", _BOX, {"a": _nested(50_000)}))


@pytest.mark.parametrize(
    ("principal_org", "resource_org", "foreign"),
    [("acme", "", False), ("acme", "acme", False), ("evil", "", True), ("acme", "evil", True), ("", "", False)],
)
def test_another_org_is_foreign(principal_org: str, resource_org: str, foreign: bool) -> None:
    request = AuthorizationRequest(Principal("a", principal_org), "Run", Resource("b", org_id=resource_org))

    assert foreign_org(request.principal, request.resource, "acme") is foreign


def test_building_a_foreign_request_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="foreign_org"):
        _build(AuthorizationRequest(Principal("a", "evil"), "Run", _BOX))


# --- from JSON --------------------------------------------------------------------------------------------------------


def _json(**changes: object) -> dict[str, Any]:
    return {"principal": {"id": "a", "org_id": "acme"}, "action": "Run", "resource": {"name": "b"}, **changes}


def test_a_full_request_is_read_from_json() -> None:
    found = request_from_json(
        {
            "expect": "allow",
            "by": ["x"],
            "principal": {
                "id": "a",
                "org_id": "o",
                "email": "e",
                "roles": ["r"],
                "teams": ["t"],
                "mfa_verified": True,
                "l": 1,
            },
            "action": "Run",
            "resource": {"id": "b", "type": "Permission", "org_id": "o", "teams": ["u"], "network": True},
            "context": {
                "ip": {"__extn": {"fn": "ip", "arg": "::1"}},
                "e": {"__entity": {"type": "T", "id": "i"}},
                "s": [1],
            },
        }
    )

    assert found == AuthorizationRequest(
        Principal("a", "o", "e", ("r",), ("t",), mfa_verified=True, attributes={"l": 1}),
        "Run",
        Resource("b", "Permission", "o", ("u",), {"network": True}),
        {"ip": ExtensionCall("ip", "::1"), "e": EntityRef("T", "i"), "s": (1,)},
    )


def test_a_name_stands_in_for_an_id() -> None:
    assert request_from_json(_json()).resource == Resource("b")
    both = request_from_json(_json(resource={"id": "b", "name": "c"}))
    assert both.resource == Resource("b", attributes={"name": "c"})


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "principal"),
        (_json(principal=[]), "principal"),
        (_json(principal={"org_id": "acme"}), "principal.id"),
        (_json(principal={"id": "a"}), "principal.org_id"),
        (_json(principal={"id": 1, "org_id": "acme"}), "principal.id"),
        (_json(principal={"id": "a", "org_id": "acme", "roles": "admin"}), "principal.roles"),
        (_json(principal={"id": "a", "org_id": "acme", "roles": [1]}), "principal.roles"),
        (_json(principal={"id": "a", "org_id": "acme", "mfa_verified": 1}), "principal.mfa_verified"),
        (_json(principal={"id": "a", "org_id": "acme", "x": None}), "principal.x"),
        (_json(action=None), "action"),
        (_json(resource={}), "resource.name"),
        (_json(resource={"name": "b", "vcpus": 1.5}), "resource.vcpus"),
        (_json(resource={"name": "b", "vcpus": 2**63}), "resource.vcpus"),
        (_json(context=None), "context"),
        (_json(context={"a": {"b": [None]}}), "context.a.b"),
        (_json(context={"a": {"__entity": {"type": "T"}}}), "context.a"),
        (_json(context={"a": {"__extn": {"fn": "ip", "arg": 1}}}), "context.a"),
        (_json(context={"a": {"__expr": "1"}}), "context.a"),
        (_json(context={"a": {"__entity": {"type": "T", "id": "i"}, "more": 1}}), "context.a"),
        (_json(extra=1), "extra"),
    ],
)
def test_broken_json_is_refused_with_its_field(document: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        request_from_json(document)

    assert caught.value.field == field


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "__entity", "__extn", "type", "id", "fn", "arg"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(_JSON_VALUES)
def test_any_json_is_a_request_or_refused(value: object) -> None:
    with contextlib.suppress(RequestInvalid):
        context = json.loads(_build(request_from_json(_json(context={"a": value}))).context)
        # Nothing is lost or changed on the way; a set keeps its elements.
        assert context == {"a": value, "source": "runtime"}
