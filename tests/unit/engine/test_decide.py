"""Decisions over layers: forbids first, errors never open a door, and the rest is plain Cedar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.cedar_request import build
from akpolicy.engine.decide import Determining, Effect, Reason, decide
from akpolicy.engine.request import AuthorizationRequest, CedarValue, Principal, Resource
from akpolicy.errors import RequestInvalid

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from tests.unit.engine.conftest import MakeLayer, MakeRequest

_PERMIT = '@id("{0}")permit (principal, action, resource);'
_FORBID = '@id("{0}")forbid (principal, action, resource);'
_OVERFLOW = "when {{ 9223372036854775807 + 1 == 0 }};"
_ERRING_PERMIT = '@id("{0}")permit (principal, action, resource) ' + _OVERFLOW
_ERRING_FORBID = '@id("{0}")forbid (principal, action, resource) ' + _OVERFLOW
_NEVER = '@id("{0}")permit (principal, action, resource) when {{ context.source == "nobody" }};'


def _text(*templates: str, prefix: str = "p") -> str:
    return "\n".join(template.format(f"{prefix}{i}") for i, template in enumerate(templates))


def test_without_a_layer_there_is_no_policy(schema: CedarSchema, make_request: MakeRequest) -> None:
    verdict = decide([], make_request(), schema)

    assert (verdict.effect, verdict.reason) == (Effect.DENY, Reason.NO_POLICY)


def test_without_a_matching_policy_the_answer_is_no(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    verdict = decide([make_layer(_text(_NEVER))], make_request(), schema)

    assert (verdict.effect, verdict.reason, verdict.determining) == (Effect.DENY, Reason.NO_PERMIT, ())
    assert verdict.deciding_layer == ""


@pytest.mark.parametrize(("broad", "narrow"), [(_FORBID, _PERMIT), (_PERMIT, _FORBID)])
def test_a_forbid_in_any_layer_denies(
    broad: str, narrow: str, schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(broad), "global"), make_layer(_text(narrow), "org/acme")]
    forbidding = "global" if broad == _FORBID else "org/acme"

    verdict = decide(layers, make_request(), schema)

    assert (verdict.effect, verdict.reason) == (Effect.DENY, Reason.FORBIDDEN)
    assert verdict.determining == (Determining(forbidding, "p0", Effect.DENY),)
    assert verdict.deciding_layer == forbidding
    assert f"`{forbidding}/p0`" in verdict.message


def test_all_matching_permits_are_named_and_the_most_specific_layer_decides(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_PERMIT, _NEVER, _PERMIT), "global"), make_layer(_text(_PERMIT, prefix="q"), "org/acme")]

    verdict = decide(layers, make_request(), schema)

    named = [(policy.scope, policy.policy_id) for policy in verdict.determining]
    assert named == [("global", "p0"), ("global", "p2"), ("org/acme", "q0")]
    assert (verdict.reason, verdict.deciding_layer) == (Reason.PERMITTED, "org/acme")


def test_a_broad_layer_decides_when_the_narrow_one_is_silent(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_PERMIT), "global"), make_layer(_text(_NEVER, prefix="q"), "org/acme")]

    assert decide(layers, make_request(), schema).deciding_layer == "global"


def test_permits_of_a_layer_with_forbids_only_do_not_count(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_PERMIT), "global"), make_layer(_text(_NEVER), "default")]

    verdict = decide(layers, make_request(), schema, forbids_only=frozenset({"global"}))

    assert (verdict.effect, verdict.reason, verdict.determining) == (Effect.DENY, Reason.NO_PERMIT, ())


def test_forbids_of_a_layer_with_forbids_only_count(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_PERMIT, _FORBID), "global"), make_layer(_text(_PERMIT), "default")]

    verdict = decide(layers, make_request(), schema, forbids_only=frozenset({"global"}))

    assert verdict.determining == (Determining("global", "p1", Effect.DENY),)


def test_an_erring_forbid_denies_and_is_named(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_PERMIT, _ERRING_FORBID), "global"), make_layer(_text(_PERMIT), "org/acme")]

    verdict = decide(layers, make_request(), schema)

    assert (verdict.effect, verdict.reason, verdict.determining) == (Effect.DENY, Reason.EVALUATION_ERROR, ())
    assert [(error.scope, error.policy_id) for error in verdict.errors] == [("global", "p1")]
    assert "integer overflow" in verdict.errors[0].message
    assert "`global/p1`" in verdict.message


def test_an_erring_forbid_of_a_layer_with_forbids_only_denies(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    layers = [make_layer(_text(_ERRING_FORBID), "global"), make_layer(_text(_PERMIT), "default")]

    verdict = decide(layers, make_request(), schema, forbids_only=frozenset({"global"}))

    assert verdict.reason is Reason.EVALUATION_ERROR


def test_an_erring_permit_is_skipped_and_listed(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    verdict = decide([make_layer(_text(_ERRING_PERMIT, _PERMIT))], make_request(), schema)

    assert (verdict.effect, [policy.policy_id for policy in verdict.determining]) == (Effect.ALLOW, ["p1"])
    assert [error.policy_id for error in verdict.errors] == ["p0"]


def test_an_erring_permit_alone_permits_nothing(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    verdict = decide([make_layer(_text(_ERRING_PERMIT))], make_request(), schema)

    assert (verdict.reason, len(verdict.errors)) == (Reason.NO_PERMIT, 1)


def test_a_matching_forbid_explains_a_denial_better_than_an_error(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    verdict = decide([make_layer(_text(_ERRING_FORBID, _FORBID))], make_request(), schema)

    assert verdict.reason is Reason.FORBIDDEN
    assert [error.policy_id for error in verdict.errors] == ["p0"]


def test_errors_come_in_the_order_of_the_policies(
    schema: CedarSchema, make_layer: MakeLayer, make_request: MakeRequest
) -> None:
    verdict = decide([make_layer(_text(*[_ERRING_PERMIT] * 12))], make_request(), schema)

    assert [error.policy_id for error in verdict.errors] == [f"p{i}" for i in range(12)]


def _refused(schema: CedarSchema, make_layer: MakeLayer, request: AuthorizationRequest) -> RequestInvalid:
    with pytest.raises(RequestInvalid) as caught:
        decide([make_layer(_text(_PERMIT))], build(request, org="acme", source="runtime"), schema)
    return caught.value


_ALICE = Principal("alice", "acme")
_ATTRIBUTES: dict[str, CedarValue] = {"agent_type": "claude", "runtime": "python"}
_BOX = Resource("box", attributes=_ATTRIBUTES)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (AuthorizationRequest(_ALICE, "Fly", _BOX), "action"),
        (AuthorizationRequest(_ALICE, "Exec", _BOX), "context.command"),
        (AuthorizationRequest(_ALICE, "Run", _BOX, {"nope": 1}), "context.nope"),
        (AuthorizationRequest(_ALICE, "Exec", _BOX, {"command": 1}), "context.command"),
        (AuthorizationRequest(Principal("a", "acme", attributes={"nope": 1}), "Run", _BOX), "principal.nope"),
        (AuthorizationRequest(_ALICE, "Run", Resource("box", attributes={"runtime": "x"})), "resource.agent_type"),
        (
            AuthorizationRequest(_ALICE, "Run", Resource("b", attributes={**_ATTRIBUTES, "vcpus": "2"})),
            "resource.vcpus",
        ),
        (AuthorizationRequest(_ALICE, "Exec", Resource("p", "Permission"), {"command": "ls"}), "resource"),
        (AuthorizationRequest(_ALICE, "Run", Resource("p", "Spaceship")), "resource"),
    ],
)
def test_a_request_that_does_not_fit_the_schema_is_refused_with_its_field(
    request_: AuthorizationRequest, field: str, schema: CedarSchema, make_layer: MakeLayer
) -> None:
    error = _refused(schema, make_layer, request_)

    assert error.field == field
    assert "entities from" not in error.message


def test_a_refusal_does_not_repeat_other_values_of_the_request(schema: CedarSchema, make_layer: MakeLayer) -> None:
    principal = Principal("alice", "acme", email="private@acme.example", attributes={"nope": 1})

    assert "private" not in _refused(schema, make_layer, AuthorizationRequest(principal, "Run", _BOX)).message
    wrong = AuthorizationRequest(_ALICE, "Exec", _BOX, {"command": 1, "sudo": True})
    assert "sudo" not in _refused(schema, make_layer, wrong).message


@pytest.mark.parametrize("subject", ["a\0b", "a\nb", 'a"b', "a\\b", "../x", "a/b", "é", "a%2Fb", " ", "a'`b"])
def test_any_subject_and_resource_id_can_be_judged(subject: str, schema: CedarSchema, make_layer: MakeLayer) -> None:
    request = AuthorizationRequest(Principal(subject, "acme"), "Run", Resource(subject, attributes=_ATTRIBUTES))

    verdict = decide([make_layer(_text(_PERMIT))], build(request, org="acme", source="runtime"), schema)

    assert verdict.effect is Effect.ALLOW


def test_a_team_is_a_parent_of_its_members(schema: CedarSchema, make_layer: MakeLayer) -> None:
    layer = make_layer('@id("t")permit (principal in AgentKernel::Team::"acme/platform", action, resource);')
    member = AuthorizationRequest(Principal("a", "acme", teams=("platform", "x")), "Run", _BOX)
    other = AuthorizationRequest(Principal("a", "acme", teams=("x",)), "Run", _BOX)

    effects = [decide([layer], build(r, org="acme", source="runtime"), schema).effect for r in (member, other)]

    assert effects == [Effect.ALLOW, Effect.DENY]


@pytest.mark.parametrize("teams", [(), ("platform",)])
def test_everything_is_in_its_org(teams: tuple[str, ...], schema: CedarSchema, make_layer: MakeLayer) -> None:
    org = 'AgentKernel::Org::"acme"'
    layer = make_layer(f'@id("o")permit (principal in {org}, action, resource in {org});')
    request = AuthorizationRequest(
        Principal("a", "acme", teams=teams), "Run", Resource("b", teams=teams, attributes=_ATTRIBUTES)
    )

    assert decide([layer], build(request, org="acme", source="runtime"), schema).effect is Effect.ALLOW


# --- layers against one plain evaluation ------------------------------------------------------------------------------

_SCOPES = st.sampled_from(
    [
        "principal, action, resource",
        'principal == AgentKernel::User::"acme/local/alice", action, resource',
        'principal == AgentKernel::User::"acme/local/bob", action, resource',
        'principal in AgentKernel::Org::"acme", action == AgentKernel::Action::"Run", resource',
        'principal, action in [AgentKernel::Action::"Attach", AgentKernel::Action::"SSH"], resource',
        "principal is AgentKernel::User, action, resource is AgentKernel::Sandbox",
    ]
)
_CONDITIONS = st.sampled_from(
    ["", 'when { principal.roles.contains("admin") }', "unless { principal.mfa_verified }", "when { false }"]
)
_POLICIES = st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), _SCOPES, _CONDITIONS), min_size=1, max_size=5)


def _policies(parts: list[tuple[str, str, str]], prefix: str) -> str:
    return "\n".join(
        f'@id("{prefix}{i}") {effect} ({scope}) {condition};' for i, (effect, scope, condition) in enumerate(parts)
    )


@given(
    broad=_POLICIES,
    narrow=_POLICIES,
    action=st.sampled_from(["Run", "Attach", "Create"]),
    subject=st.sampled_from(["alice", "bob", "carol"]),
    roles=st.sampled_from([(), ("admin",)]),
)
def test_two_layers_decide_like_plain_cedar_over_their_union(
    broad: list[tuple[str, str, str]],
    narrow: list[tuple[str, str, str]],
    action: str,
    subject: str,
    roles: tuple[str, ...],
    schema: CedarSchema,
    make_layer: MakeLayer,
    make_request: MakeRequest,
) -> None:
    texts = _policies(broad, "g"), _policies(narrow, "o")
    request = make_request(action, subject=subject, roles=roles)
    query = {part: getattr(request, part) for part in ("principal", "action", "resource", "context")}

    verdict = decide([make_layer(texts[0], "global"), make_layer(texts[1], "org/acme")], request, schema)

    plain = cedarpy.is_authorized(query, "\n".join(texts), request.entities.text, schema.handle)
    assert (verdict.effect is Effect.ALLOW) == plain.allowed
    named = {policy.policy_id for policy in verdict.determining}
    assert named == set(plain.diagnostics.id_annotations_by_reason.values())
