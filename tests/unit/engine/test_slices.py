"""Leaving out what cannot match changes nothing: slices decide as Cedar does over all policies."""

from __future__ import annotations

import json
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akpolicy.engine import index
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


Uid = dict[str, str]
PLAIN = st.just("")
RICH = st.sampled_from(CONDITIONS)


@st.composite
def universe(draw: st.DrawFn) -> list[Uid]:
    """Return few entities, so that policies are often about those that a request is about."""
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=2, unique=True))
    names = draw(st.lists(st.sampled_from(IDS), min_size=2, max_size=3, unique=True))
    return [uid(kind, name) for kind in kinds for name in names]


@st.composite
def constraint(draw: st.DrawFn, variable: str, entities: list[Uid]) -> str:
    kind = draw(st.sampled_from(["in", "eq", "any", "is", "is in"]))
    one = draw(st.sampled_from(entities))
    return {
        "any": variable,
        "is": f"{variable} is {one['type']}",
        "is in": f"{variable} is {draw(st.sampled_from(entities))['type']} in {text_of(one)}",
        "eq": f"{variable} == {text_of(one)}",
        "in": f"{variable} in {text_of(one)}",
    }[kind]


@st.composite
def action_constraint(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["list", "in", "eq", "any"]))
    if kind == "any":
        return "action"
    if kind == "list":
        return f"action in [{', '.join(text_of(one) for one in draw(st.lists(action, max_size=3, unique_by=text_of)))}]"
    return f"action {'==' if kind == 'eq' else 'in'} {text_of(draw(action))}"


action = st.builds(uid, st.just("Action"), st.sampled_from(ACTIONS))


@st.composite
def policies_about(draw: st.DrawFn, entities: list[Uid]) -> str:
    """Return policies. With permits alone and no conditions, the reasons name every one whose scope matches."""
    bare = draw(st.booleans())
    effects = st.just("permit") if bare else st.sampled_from(["permit", "permit", "forbid"])
    one = st.builds(
        "{} ({}, {}, {}) {};".format,
        effects,
        constraint("principal", entities),
        action_constraint(),
        constraint("resource", entities),
        PLAIN if bare else RICH,
    )
    return "\n".join(draw(st.lists(one, min_size=1, max_size=15)))


@st.composite
def family(draw: st.DrawFn, entities: list[Uid]) -> list[dict[str, Any]]:
    """Return entities of which each may be in those before it, so that there is no cycle; some are not there at all."""
    made: list[dict[str, Any]] = []
    chosen = draw(st.permutations([*entities, *[uid("Action", name) for name in ACTIONS]]))
    for one in chosen[: draw(st.integers(0, len(chosen)))]:
        kin = [other["uid"] for other in made if (other["uid"]["type"] == "Action") == (one["type"] == "Action")]
        # Two at most, so that many an ancestor is one through another.
        parents = draw(st.lists(st.sampled_from(kin), max_size=2, unique_by=text_of)) if kin else []
        made.append({"uid": one, "attrs": {}, "parents": parents})
    return made


@st.composite
def case(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Return policies, entities and a request."""
    entities = draw(universe())
    request: dict[str, Any] = {"principal": draw(st.sampled_from(entities)), "action": draw(action)}
    request["resource"] = draw(st.sampled_from(entities))
    request["context"] = draw(st.sampled_from([{}, {"on": True}, {"on": False}]))
    return draw(policies_about(entities)), draw(family(entities)), request


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


Case = tuple[str, list[dict[str, Any]], dict[str, Any]]


@settings(max_examples=500)
@given(case=case(), few=st.sampled_from([0, index.FEW]))
def test_a_slice_decides_as_cedar_does_over_all_policies(case: Case, few: int) -> None:
    text, entities, request = case
    with pytest.MonkeyPatch.context() as patch:
        # The index has two forms, for few and for many policies; few policies can show what is wrong with either.
        patch.setattr(index, "FEW", few)

        assert sliced(text, request, entities) == plain(text, request, entities)


GROUPS = """
entity Group; entity Doc in [Group]; entity User in [Group];
action all; action readers in [all]; action edit in [all];
action view in [readers] appliesTo { principal: [User], resource: [Doc], context: { on?: Bool } };
"""


MEMBERS = [uid("Group", "a"), uid("Group", "b"), uid("User", "a"), uid("Doc", "a")]


@settings(max_examples=150)
@given(text=policies_about(MEMBERS), parents=st.lists(st.sampled_from(MEMBERS[:2]), unique_by=text_of, max_size=2))
def test_the_groups_of_a_schema_count(text: str, parents: list[Uid]) -> None:
    schema = cedarpy.Schema.from_str(GROUPS)
    entities = [{"uid": MEMBERS[2], "attrs": {}, "parents": parents}]
    request = {"principal": MEMBERS[2], "action": uid("Action", "view"), "resource": MEMBERS[3], "context": {}}

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
