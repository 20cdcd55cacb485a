"""A layer is what was checked, and its policies are those that Cedar means."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.compile import Effect, PolicyRef, compile_layer
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.errors import PolicySetInvalid

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

_ANY = "permit (principal, action, resource);"


def test_a_layer_knows_ids_and_effects_in_the_order_of_the_text(example_policies: str, schema: CedarSchema) -> None:
    layer = compile_layer("org/acme", split_policies(example_policies, source="policies.cedar"), schema)

    assert layer.scope == "org/acme"
    assert layer.policies == (
        PolicyRef("seed-dev-run-memory", Effect.ALLOW),
        PolicyRef("seed-healthcare-network-mfa", Effect.DENY),
        PolicyRef("developer-basics", Effect.ALLOW),
        PolicyRef("admin-everything", Effect.ALLOW),
        PolicyRef("viewer-attach", Effect.ALLOW),
        PolicyRef("no-codex", Effect.DENY),
        PolicyRef("mount-needs-mfa", Effect.DENY),
    )


@pytest.mark.parametrize(
    ("policies", "code"),
    [
        ([], "EmptyPolicySet"),
        ([PolicyText("a", "// nothing")], "PolicyCountMismatch"),
        ([PolicyText("a", _ANY + _ANY), PolicyText("b", "// nothing")], "PolicyCountMismatch"),
        ([PolicyText("a", _ANY), PolicyText("a", _ANY)], "PolicyIdDuplicate"),
        ([PolicyText("", _ANY)], "PolicyIdInvalid"),
        ([PolicyText("a", f'@id("b"){_ANY}')], "PolicyIdInvalid"),
        ([PolicyText("a", f"permit(principal, action, resource) when {{ {'[' * 40_000} }};")], "PolicyTooLarge"),
        ([PolicyText("a", f"permit(principal, action, resource) when {{ {'[' * 100} }};")], "PolicyTooDeep"),
        ([PolicyText("a", "permit(principal in ?principal, action, resource);")], "PolicyTemplate"),
        ([PolicyText("a", "permit(principal);")], "PolicyParseError"),
        ([PolicyText("a", "permit(principal, action, resource) when { resource.nope };")], "PolicyValidationError"),
        ([PolicyText("a", _ANY[:-1] + "// comment"), PolicyText("b", ";" + _ANY)], "PolicyParseError"),
        ([PolicyText("a", "permit(principal, action, resource) // \ud800\n;")], "PolicyNotUtf8"),
    ],
)
def test_what_came_over_the_network_is_checked_again(
    policies: list[PolicyText], code: str, schema: CedarSchema
) -> None:
    with pytest.raises(PolicySetInvalid) as caught:
        compile_layer("org/acme", policies, schema)

    assert caught.value.code == code


def test_a_comment_at_the_end_of_one_policy_does_not_swallow_the_next(schema: CedarSchema) -> None:
    policies = [PolicyText("a", _ANY + "// the end"), PolicyText("b", "forbid (principal, action, resource);")]

    layer = compile_layer("org/acme", policies, schema)

    assert (len(layer.texts), [policy.effect for policy in layer.policies]) == (2, [Effect.ALLOW, Effect.DENY])


_NOISE = st.sampled_from(["", "// permit ;\n", '// "\n', "\n\n", "// x\r", '@note("forbid; //") ', '@permit("") @if '])


@given(parts=st.lists(st.tuples(_NOISE, st.sampled_from(["permit", "forbid"]), _NOISE), min_size=1, max_size=12))
def test_positions_are_those_of_cedar(parts: list[tuple[str, str, str]], schema: CedarSchema) -> None:
    policies = [
        PolicyText(
            f"p{i}",
            f'{before if before[:1] != "@" else ""}@id("p{i}") {note if note[:1] == "@" else ""}'
            f"{effect} (principal, action, resource);",
        )
        for i, (before, effect, note) in enumerate(parts)
    ]
    layer = compile_layer("org/acme", policies, schema)
    uid = {"type": "AgentKernel::User", "id": "a"}
    query = {"principal": uid, "action": {"type": "AgentKernel::Action", "id": "Run"}, "resource": uid}

    result = cedarpy.is_authorized(query, "\n".join(layer.texts), json.dumps([]))

    # Cedar's own view of the `@id` of each policy that determined its decision.
    named = result.diagnostics.id_annotations_by_reason
    assert named
    assert all(layer.policies[int(name.removeprefix("policy"))].id == own for name, own in named.items())
    decided = Effect.ALLOW if result.allowed else Effect.DENY
    assert {policy.id for policy in layer.policies if policy.effect is decided} == set(named.values())
