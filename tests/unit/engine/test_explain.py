"""Explanations agree with decisions: what applied, what did not and why, what failed, what did not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akpolicy.engine.cedar_request import CedarRequest, build
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.explain import Explanation, LayerExplanation, explain
from akpolicy.engine.parts import MAX_SHOWN_CHARS, cut
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.slices import SliceCache
from akpolicy.engine.source import PolicyText
from akpolicy.engine.stack import LayerStack

if TYPE_CHECKING:
    from akpolicy.engine.compile import CompiledLayer
    from akpolicy.engine.schema import CedarSchema
    from tests.unit.engine.conftest import MakeLayer

TEXT = """
@id("all-hold") permit (principal is AgentKernel::User, action, resource) when { principal.roles.contains("dev") };
@id("principal") permit (principal == AgentKernel::User::"acme/local/bob", action, resource);
@id("action") forbid (principal, action in [AgentKernel::Action::"Run",
  AgentKernel::Action::"SSH"], resource);
@id("resource") permit (principal, action, resource is AgentKernel::Permission);
@id("first") permit (principal, action, resource)
when {
  principal.mfa_verified && // a comment
  principal.roles.contains("dev")
};
@id("second") permit (principal, action, resource) when { principal.roles.contains("dev") && context has sudo };
@id("unless") permit (principal, action, resource) unless { principal.roles.contains("dev") };
@id("either") permit (principal, action, resource) when { principal.mfa_verified || principal.roles.contains("x") };
@id("fails") forbid (principal, action, resource) when { context.source == "runtime" && 9223372036854775807 + 1 == 0 };
"""


def ask(action: str = "Exec", *, teams: tuple[str, ...] = (), of_resource: tuple[str, ...] = ()) -> CedarRequest:
    request = AuthorizationRequest(
        Principal("alice", "acme", roles=("dev",), teams=teams),
        action,
        Resource("box", teams=of_resource, attributes={"agent_type": "claude", "runtime": "python"}),
        {"command": "ls"} if action == "Exec" else {},
    )
    return build(request, org="acme", source="runtime")


def explained(schema: CedarSchema, request: CedarRequest, *layers: CompiledLayer) -> Explanation:
    return explain(LayerStack(layers, schema, slices=SliceCache()), request)


def told(layer: LayerExplanation) -> dict[str, tuple[str, str, int]]:
    """Return what is said of each policy: the list that it is in, and why."""
    return {
        policy.policy_id: (kind, policy.because, policy.line)
        for kind in ("applied", "missed", "failed", "left_out")
        for policy in getattr(layer, kind)
    }


def test_each_policy_is_told_by_the_first_part_that_does_not_hold(schema: CedarSchema, make_layer: MakeLayer) -> None:
    [layer] = explained(schema, ask(), make_layer(TEXT)).layers

    found = told(layer)
    assert found["fails"][0] == "failed"
    assert "overflow" in found.pop("fails")[1]
    assert found == {
        "all-hold": ("applied", "", 0),
        "principal": ("missed", 'principal == AgentKernel::User::"acme/local/bob"', 1),
        "action": ("missed", 'action in [AgentKernel::Action::"Run", AgentKernel::Action::"SSH"]', 1),
        "resource": ("missed", "resource is AgentKernel::Permission", 1),
        "first": ("missed", "principal.mfa_verified", 3),
        "second": ("missed", "context has sudo", 1),
        "unless": ("missed", 'unless { principal.roles.contains("dev") }', 1),
        "either": ("missed", 'principal.mfa_verified || principal.roles.contains("x")', 1),
    }
    assert (layer.policy_count, layer.missed_count) == (9, 7)


def test_the_nearest_misses_come_first(schema: CedarSchema, make_layer: MakeLayer) -> None:
    [layer] = explained(schema, ask(), make_layer(TEXT)).layers

    assert [policy.policy_id for policy in layer.missed][:4] == ["second", "first", "unless", "either"]


def test_what_does_not_count_is_told_apart(schema: CedarSchema, make_layer: MakeLayer) -> None:
    permit = '@id("x") permit (principal, action, resource);'
    layers = [
        make_layer(permit + permit.replace('"x"', '"y"'), "global"),
        make_layer(permit, "org/acme"),
        make_layer(permit.replace('"x"', '"z"'), "org/acme/team/red"),
    ]

    broad, own, team = explained(schema, ask(teams=("red",), of_resource=("blue",)), *layers).layers

    assert told(broad) == {"x": ("left_out", "replaced by `org/acme/x`", 0), "y": ("applied", "", 0)}
    assert told(own) == {"x": ("applied", "", 0)}
    assert told(team)["z"][0] == "left_out"
    assert "team" in told(team)["z"][1]


def test_thousands_of_other_policies_are_counted_and_the_nearest_are_told(
    schema: CedarSchema, make_layer: MakeLayer
) -> None:
    text = "\n".join(
        f'@id("p{n}") permit (principal == AgentKernel::User::"acme/local/u{n}", '
        f'action == AgentKernel::Action::"{"Exec" if n % 100 == 0 else "Run"}", resource);'
        for n in range(3000)
    )

    [layer] = explained(schema, ask(), make_layer(text)).layers

    assert (layer.policy_count, layer.missed_count, len(layer.missed)) == (3000, 3000, 20)
    assert all(int(policy.policy_id[1:]) % 100 == 0 for policy in layer.missed)
    assert layer.missed[0].because == 'principal == AgentKernel::User::"acme/local/u0"'


def test_caps_are_those_of_the_permits_of_run(schema: CedarSchema, make_layer: MakeLayer) -> None:
    text = "\n".join(
        f'@id("p{n}") @max_memory_mb("{cap}") @pass_env("true") permit (principal, action, resource) {condition};'
        for n, (cap, condition) in enumerate([(900, ""), (700, ""), (100, "when { false }")])
    )

    assert explained(schema, ask("Run"), make_layer(text)).caps == {"max_memory_mb": "700", "pass_env": "true"}
    assert explained(schema, ask("Exec"), make_layer(text)).caps == {}


def test_a_long_part_is_cut(schema: CedarSchema, make_layer: MakeLayer) -> None:
    names = ", ".join(f'"{n}"' for n in range(500))
    text = f'@id("p") permit (principal, action, resource) when {{ [{names}].contains(context.source) }};'

    [policy] = explained(schema, ask(), make_layer(text)).layers[0].missed

    assert len(policy.because) == MAX_SHOWN_CHARS


def test_what_applies_is_told_of_all_and_misses_within_bounds(
    schema: CedarSchema, make_layer: MakeLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akpolicy.engine.explain.MAX_EXAMINED_CHARS", 2000)
    text = "\n".join(
        f'@id("p{n}") permit (principal, action, resource) when {{ principal.mfa_verified && "{n}" == "" }};\n'
        f'@id("q{n}") permit (principal, action, resource);'
        for n in range(50)
    )

    [layer] = explained(schema, ask(), make_layer(text)).layers

    assert (len(layer.applied), layer.missed_count) == (50, 50)
    assert 0 < len(layer.missed) < 20


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("permit(principal,action,resource);", ["principal", "action", "resource"]),
        (
            '@a("when {") @b permit (principal, action, resource,) when { true } unless { 1 < 2 };',
            ["principal", "action", "resource", "true", "1 < 2"],
        ),
        (
            "permit(principal,action,resource) when { (true && false) && [1, 2].contains(1) };",
            ["principal", "action", "resource", "(true && false)", "[1, 2].contains(1)"],
        ),
        (
            "permit(principal,action,resource) when { if true then true else false && true };",
            ["principal", "action", "resource", "if true then true else false && true"],
        ),
        (
            'permit(principal,action,resource) when { "a && b" == "&&" && {a: 1}.a == 1 };',
            ["principal", "action", "resource", '"a && b" == "&&"', "{a: 1}.a == 1"],
        ),
    ],
)
def test_a_policy_is_cut_where_cedar_goes_on_to_the_next_part(text: str, parts: list[str]) -> None:
    found = cut(text)

    assert [found.part(number).text for number in range(len(found))] == parts
    assert len(cedarpy.PolicySet.from_str(found.upto(len(found)))) == 1


# --- against Cedar, policy by policy ----------------------------------------------------------------------------------

_ATOMS = st.sampled_from(
    [
        "true",
        "false",
        "principal.mfa_verified",
        'principal.roles.contains("dev")',
        "context has command",
        'context has command && context.command == "ls"',
        "9223372036854775807 + 1 == 0",
        "(true || false)",
        "resource has image && resource.image == resource.name",
        "true || principal.mfa_verified",
        "(if false then true else true)",
        "!principal.mfa_verified // why not\n",
    ]
)
_CLAUSE = st.builds(
    "{} {{ {} }}".format, st.sampled_from(["when", "unless"]), st.lists(_ATOMS, min_size=1, max_size=3).map(" && ".join)
)
_SCOPE = st.sampled_from(
    [
        "principal, action, resource",
        'principal == AgentKernel::User::"acme/local/bob", action, resource',
        'principal in AgentKernel::Org::"acme", action == AgentKernel::Action::"Exec", resource',
        'principal, action == AgentKernel::Action::"Run", resource',
    ]
)
_POLICIES = st.lists(
    st.tuples(st.sampled_from(["permit", "forbid"]), _SCOPE, st.lists(_CLAUSE, max_size=2)), min_size=1, max_size=6
)


@settings(max_examples=150)
@given(policies=_POLICIES)
def test_what_applied_is_what_applies_to_cedar_and_the_miss_is_the_first_part_that_is_false(
    policies: list[tuple[str, str, list[str]]], schema: CedarSchema
) -> None:
    texts = [f"{effect} ({scope}) {' '.join(clauses)};" for effect, scope, clauses in policies]
    named = [PolicyText(f"p{n}", text) for n, text in enumerate(texts)]
    layer = compile_layer("org/acme", named, schema, checked=True)
    request = ask()

    [found] = explained(schema, request, layer).layers

    outcomes = told(found)
    for n in range(len(policies)):
        plain = cedarpy.is_authorized(request.query, texts[n], request.entities.text, None)
        kind = outcomes[f"p{n}"][0]
        assert (kind == "applied") == bool(plain.diagnostics.reasons), texts[n]
        assert (kind == "failed") == bool(plain.diagnostics.errors), texts[n]
        if kind == "missed":
            parts = cut(texts[n])
            shown = [parts.part(number).shown for number in range(len(parts))]
            assert outcomes[f"p{n}"][1] in shown
    assert len(outcomes) == len(policies)
