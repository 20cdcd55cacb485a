"""What would change, and which policies are responsible: those that are added, removed or changed, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.files import PolicyFile, read_policies
from akpolicy.engine.request import AuthorizationRequest, Principal, Resource
from akpolicy.engine.schema import load_default_schema
from akpolicy.simulation.difference import Difference, compare
from akpolicy.simulation.layers import Layers

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = load_default_schema()
BOX: Final = {"agent_type": "claude", "runtime": "python"}
ALLOW: Final = '@id("allow") permit (principal, action, resource);\n'
RUN: Final = '@id("run") permit (principal, action == AgentKernel::Action::"Run", resource);\n'
FORBID: Final = '@id("never") forbid (principal, action == AgentKernel::Action::"Run", resource);\n'
FAILING: Final = '@id("failing") forbid (principal, action, resource) when { 9223372036854775807 + 1 == 0 };\n'
NOTHING: Final = '@id("nothing") permit (principal, action == AgentKernel::Action::"SSH", resource);\n'


def layers(policies: str | Mapping[str, str]) -> Layers:
    by_scope = {"org/acme": policies} if isinstance(policies, str) else policies
    texts = {scope: read_policies([PolicyFile("p", text.encode())], SCHEMA) for scope, text in by_scope.items()}
    return Layers.compiled("acme", texts, SCHEMA)


def ask(action: str = "Run", org: str = "acme", **more: object) -> AuthorizationRequest:
    return AuthorizationRequest(
        Principal("alice", org, teams=("red",)),
        action,
        Resource("box", attributes=BOX),
        more,  # type: ignore[arg-type]
    )


def found(before: str | Mapping[str, str], after: str | Mapping[str, str]) -> Difference:
    return compare(layers(before), layers(after), [(1, ask())])


def blamed(before: str | Mapping[str, str], after: str | Mapping[str, str]) -> dict[str, str]:
    difference = found(before, after)
    assert difference.changed == 1
    return {name: changes.edit for name, changes in difference.policies.items()}


@pytest.mark.parametrize(
    ("before", "after", "responsible"),
    [
        (ALLOW + FORBID, ALLOW, {"never": "removed"}),
        (ALLOW, ALLOW + FORBID, {"never": "added"}),
        (ALLOW + FORBID, ALLOW + FORBID.replace('"Run"', '"SSH"'), {"never": "changed"}),
        (NOTHING, NOTHING + RUN, {"run": "added"}),
        (NOTHING + RUN, NOTHING, {"run": "removed"}),
        (RUN, RUN.replace('"Run"', '"SSH"'), {"run": "changed"}),
        (RUN, RUN.replace("permit", "forbid"), {"run": "changed"}),
        (RUN, FORBID, {"run": "removed", "never": "added"}),
        (FORBID, RUN, {"never": "removed", "run": "added"}),
        # Another permit would have gone on to allow it, or already did.
        (ALLOW + RUN, ALLOW + FORBID, {"never": "added"}),
        (ALLOW + FORBID, ALLOW + RUN, {"never": "removed"}),
        (ALLOW, ALLOW + FAILING, {"failing": "added"}),
        (ALLOW + FAILING, ALLOW, {"failing": "removed"}),
        # What is written otherwise and says the same has not changed.
        (ALLOW + FORBID, "// all\n" + ALLOW.replace(", ", " ,\n") + NOTHING, {"never": "removed"}),
        (ALLOW + FORBID, ALLOW.replace(")", ') @note("new")', 1) + NOTHING, {"never": "removed"}),
    ],
)
def test_what_is_added_removed_or_changed_is_responsible(
    before: str, after: str, responsible: Mapping[str, str]
) -> None:
    assert blamed(before, after) == {f"org/acme/{name}": edit for name, edit in responsible.items()}


def test_a_policy_that_replaces_a_permit_of_a_broader_layer_is_responsible() -> None:
    own = {"org/acme": RUN, "org/acme/team/red": NOTHING}
    replaced = {"org/acme": RUN, "org/acme/team/red": NOTHING + NOTHING.replace('"nothing"', '"run"')}

    assert blamed(own, replaced) == {"org/acme/team/red/run": "added"}
    assert blamed(replaced, own) == {"org/acme/team/red/run": "removed"}


def test_requests_of_other_orgs_and_those_that_are_none_are_counted_apart() -> None:
    foreign = AuthorizationRequest(Principal("alice", "acme"), "Run", Resource("box", org_id="beta", attributes=BOX))
    asked = [ask(), ask(org="beta"), foreign, ask("Fly"), ask("Run", x=1)]

    difference = compare(layers(ALLOW), layers(FORBID), enumerate(asked, 1))

    assert (difference.replayed, difference.changed, difference.foreign) == (3, 1, 2)
    assert (difference.refused, difference.compared, difference.first_refusal[0]) == (2, 1, 4)


_VARIANTS: Final = [
    "permit (principal, action, resource);",
    'permit (principal, action == AgentKernel::Action::"SSH", resource);',
    "permit (principal, action, resource) when { 9223372036854775807 + 1 == 0 };",
    "forbid (principal, action, resource);",
    'forbid (principal, action == AgentKernel::Action::"SSH", resource);',
    "forbid (principal, action, resource) when { 9223372036854775807 + 1 == 0 };",
]
_SCOPES: Final = ["global", "org/acme", "org/acme/team/red"]
# What each of three ids is in a layer, or that it is missing; `rest` is always there, because no layer is empty.
_LAYER: Final = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(_VARIANTS))


def _stack(chosen: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        scope: "".join(f'@id("{name}") {text}\n' for name, text in {**policies, "rest": _VARIANTS[1]}.items())
        for scope, policies in chosen.items()
    }


@given(st.fixed_dictionaries(dict.fromkeys(_SCOPES, _LAYER)), st.fixed_dictionaries(dict.fromkeys(_SCOPES, _LAYER)))
def test_every_change_has_edited_policies_that_are_responsible(
    before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> None:
    edited = {
        f"{scope}/{name}"
        for scope in _SCOPES
        for name in {*before[scope], *after[scope]}
        if before[scope].get(name) != after[scope].get(name)
    }

    difference = found(_stack(before), _stack(after))

    assert set(difference.policies) <= edited
    assert bool(difference.policies) == bool(difference.changed)
    assert all(changes.edit for changes in difference.policies.values())
