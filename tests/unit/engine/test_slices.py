"""Leaving out what cannot match changes nothing: slices decide as Cedar does over all policies."""

from __future__ import annotations

import json
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akpolicy.engine.evaluation import Policies, World, answer
from akpolicy.engine.slices import Member, SliceCache
from akpolicy.engine.verdict import Determining, Effect

IDS = ["a", "b", "x\0y", "new\nline", 'quo"te', "back\\slash", "é", "::"]
KINDS = ["User", "NS::User", "Group", "Doc"]
ACTIONS = ["view", "edit", "readers", "all"]
CONDITIONS = [
    "",
    "when { true }",
    "when { false }",
    "unless { context.on }",
    "when { context has on && context.on }",
    "when { principal.missing == 1 }",
    "when { 9223372036854775807 + 1 == 0 }",
    'when { principal in Group::"a" }',
    'when { resource is Doc && resource in Group::"b" }',
    "unless { principal.missing }",
]


def uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}


def text_of(entity: dict[str, str]) -> str:
    """Return the entity in Cedar's syntax."""
    escaped = entity["id"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\0", "\\0")
    return f'{entity["type"]}::"{escaped}"'


entity = st.builds(uid, st.sampled_from(KINDS), st.sampled_from(IDS))
action = st.builds(uid, st.just("Action"), st.sampled_from(ACTIONS))


@st.composite
def constraint(draw: st.DrawFn, variable: str) -> str:
    kind = draw(st.sampled_from(["any", "eq", "in", "is", "is in"]))
    if kind == "any":
        return variable
    if kind == "is":
        return f"{variable} is {draw(st.sampled_from(KINDS))}"
    if kind == "is in":
        return f"{variable} is {draw(st.sampled_from(KINDS))} in {text_of(draw(entity))}"
    return f"{variable} {'==' if kind == 'eq' else 'in'} {text_of(draw(entity))}"


@st.composite
def action_constraint(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["any", "eq", "in", "list"]))
    if kind == "any":
        return "action"
    if kind == "list":
        return f"action in [{', '.join(text_of(one) for one in draw(st.lists(action, max_size=3)))}]"
    return f"action {'==' if kind == 'eq' else 'in'} {text_of(draw(action))}"


policy = st.builds(
    "{} ({}, {}, {}) {};".format,
    st.sampled_from(["permit", "forbid"]),
    constraint("principal"),
    action_constraint(),
    constraint("resource"),
    st.sampled_from(CONDITIONS),
)


@st.composite
def world(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return entities of which each may be in those before it, so that there is no cycle; some are not there at all."""
    made: list[dict[str, Any]] = []
    everything = [uid(kind, name) for kind in KINDS for name in IDS[:5]] + [uid("Action", name) for name in ACTIONS]
    chosen = draw(st.lists(st.sampled_from(everything), unique_by=text_of, max_size=12))
    for one in chosen:
        kin = [other["uid"] for other in made if (other["uid"]["type"] == "Action") == (one["type"] == "Action")]
        parents = draw(st.lists(st.sampled_from(kin), max_size=3, unique_by=text_of)) if kin else []
        made.append({"uid": one, "attrs": {}, "parents": parents})
    return made


def plain(text: str, request: dict[str, Any], entities: list[dict[str, Any]], schema: Any = None) -> tuple[Any, ...]:
    """Return what Cedar says with all policies: the decision, the policies, the errors."""
    result = cedarpy.is_authorized(request, text, entities, schema)
    assert result.decision is not cedarpy.Decision.NoDecision, result.diagnostics.errors
    prefix = "error while evaluating policy "
    errors = sorted(error.removeprefix(prefix).replace("`", "", 2) for error in result.diagnostics.errors)
    return result.allowed, sorted(result.diagnostics.reasons), errors


def sliced(text: str, request: dict[str, Any], entities: list[dict[str, Any]], schema: Any = None) -> tuple[Any, ...]:
    found = answer(Policies.read(text), World(json.dumps(entities), schema, strict=False), request, strict=False)
    return found.effect is Effect.ALLOW, sorted(found.reasons), sorted(found.errors)


@settings(max_examples=400)
@given(
    policies=st.lists(policy, max_size=25),
    entities=world(),
    principal=entity,
    asked=action,
    resource=entity,
    context=st.sampled_from([{}, {"on": True}, {"on": False}]),
)
def test_a_slice_decides_as_cedar_does_over_all_policies(
    policies: list[str],
    entities: list[dict[str, Any]],
    principal: dict[str, str],
    asked: dict[str, str],
    resource: dict[str, str],
    context: dict[str, bool],
) -> None:
    request = {"principal": principal, "action": asked, "resource": resource, "context": context}
    text = "\n".join(policies)

    assert sliced(text, request, entities) == plain(text, request, entities)


GROUPS = """
entity Group; entity Doc in [Group]; entity User in [Group];
action all; action readers in [all]; action edit in [all];
action view in [readers] appliesTo { principal: [User], resource: [Doc], context: { on?: Bool } };
"""


@settings(max_examples=100)
@given(
    policies=st.lists(policy, max_size=15),
    principal=st.builds(uid, st.just("User"), st.sampled_from(IDS)),
    parents=st.lists(st.sampled_from(IDS), unique=True, max_size=2),
)
def test_the_groups_of_a_schema_count(policies: list[str], principal: dict[str, str], parents: list[str]) -> None:
    schema = cedarpy.Schema.from_str(GROUPS)
    in_groups = [uid("Group", name) for name in parents]
    entities = [{"uid": principal, "attrs": {}, "parents": in_groups}]
    request = {"principal": principal, "action": uid("Action", "view"), "resource": uid("Doc", "a"), "context": {}}
    text = "\n".join(policies)

    assert sliced(text, request, entities, schema) == plain(text, request, entities, schema)


@pytest.mark.parametrize("wanted", ["readers", "all"])
def test_a_forbid_of_an_action_group_is_reached(wanted: str) -> None:
    schema = cedarpy.Schema.from_str(GROUPS)
    text = f'permit (principal, action, resource);\nforbid (principal, action in Action::"{wanted}", resource);'
    request = {"principal": uid("User", "a"), "action": uid("Action", "view"), "resource": uid("Doc", "a")}

    assert sliced(text, request, [], schema) == (False, ["policy1"], [])


# --- the cache --------------------------------------------------------------------------------------------------------


def members(count: int) -> list[Member]:
    return [
        Member(Determining("", f"p{n}", Effect.ALLOW), "permit (principal, action, resource);") for n in range(count)
    ]


def test_a_slice_is_built_once() -> None:
    cache, asked = SliceCache(), []

    def build() -> list[Member]:
        asked.append(1)
        return members(1)

    assert cache.get("k", build) is cache.get("k", build)
    assert len(asked) == 1


def test_slices_are_bounded_in_number_and_in_policies() -> None:
    few, small = SliceCache(max_slices=10), SliceCache(max_policies=100)
    for number in range(50):
        few.get(number, lambda: members(1))
        small.get(number, lambda: members(30))

    assert len(few) <= 10
    assert small.policies == 30 * len(small) <= 100


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    cache = SliceCache(max_slices=4)
    kept = cache.get("kept", lambda: members(1))
    for number in range(20):
        cache.get(number, lambda: members(1))
        assert cache.get("kept", lambda: pytest.fail("it was dropped")) is kept


def test_a_slice_larger_than_the_cache_serves_until_the_next_one() -> None:
    cache = SliceCache(max_policies=3)
    large = cache.get("large", lambda: members(5))

    assert cache.get("large", lambda: pytest.fail("it was dropped")) is large
    cache.get("next", lambda: members(1))
    assert (len(cache), cache.policies) == (1, 1)
