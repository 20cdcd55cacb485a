"""The fence says of policies what the program itself would say, to the letter."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.bundle import describe_content, encode_content
from akpolicy.engine.check import check_policies
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.schema import parse_schema
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.errors import PolicySetInvalid, SchemaInvalid
from akpolicy.fence.fence import content_digest
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_POLICIES, MAX_POLICY_BYTES, MAX_SCHEMA_BYTES
from tests.integration.fence.conftest import ANY, GOOD, Attempt, deed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.engine.schema import CedarSchema
    from akpolicy.errors import Problem
    from akpolicy.fence.fence import Fence
    from tests.integration.fence.conftest import Scene

EXAMPLES = split_policies(
    resources.files("akpolicy").joinpath("examples", "policies.cedar").read_text(encoding="utf-8"), source="é.cedar"
)
HEAD = "permit (principal, action, resource)"

BROKEN: dict[str, Sequence[PolicyText]] = {
    "none": [],
    "too many": [PolicyText("p", ANY)] * (MAX_POLICIES + 1),
    "too large in all": [PolicyText("p", ANY + " " * MAX_CONTENT_BYTES)],
    "too large": [PolicyText("p", ANY + "//" + "x" * MAX_POLICY_BYTES)],
    "too deep": [PolicyText("p", f"{HEAD} when {{ {'[' * 100} }};")],
    "surrogates": [PolicyText("p", f"{HEAD} // \ud800\udc00 \udfff\n;", "\udc80.cedar", 3)],
    "a pair of surrogates is no character": [PolicyText("p", f"{HEAD} // \ud800\udc00 and \U00010000\n;")],
    "nul": [PolicyText("p", f"{HEAD} when {{ \0 }};", "a\0b", 0)],
    "not a policy": [PolicyText("a b", "// nothing", "s", 7), PolicyText("", ";", "s", 8)],
    "ids": [PolicyText("a", ANY, "s", 1), PolicyText("a", ANY, "s", 2), PolicyText("b", f'@id("c"){ANY}', "s", 3)],
    "several of each": [
        PolicyText(f"p{i}", f"{HEAD} when {{ principal.emial == 1 || 1 + true == 2\n || {end} }};", "s.cedar", 10 * i)
        for i, end in enumerate(["true", "principal.", "resource.nope", "foo(1)"])
    ],
    "more than are shown": [PolicyText(f"p{i}", "permit(principal);", "s", i) for i in range(MAX_PROBLEMS + 20)],
    "outside ASCII": [PolicyText("p", f'{HEAD} when {{ principal.ünïcode == "日本語 🦀" }};', "日本.cedar", 2**31)],
}


def _outcome(check: object) -> tuple[Problem, ...]:
    assert callable(check)
    try:
        check()
    except PolicySetInvalid as error:
        return error.problems
    return ()


@pytest.mark.parametrize("policies", BROKEN.values(), ids=BROKEN)
def test_broken_policies_get_the_problems_that_they_get_in_process(
    policies: Sequence[PolicyText], fence: Fence, schema: CedarSchema
) -> None:
    expected = _outcome(lambda: compile_layer("org/acme", policies, schema))

    assert _outcome(lambda: fence.prove(policies, schema)) == expected
    assert fence.check(policies, schema) == expected
    assert expected


def test_good_policies_are_proven(fence: Fence, schema: CedarSchema) -> None:
    fence.prove(EXAMPLES, schema)

    assert fence.check(EXAMPLES, schema) == ()


_PIECES = st.sampled_from(
    ["", ";", '"', "(", ")", "[", "}", "//", "\n", "&&", " == ", ".", "!", "permit", "?principal", "@id", "é", "\ud800"]
)


@given(edits=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 400), st.integers(0, 12), _PIECES), max_size=4))
def test_damaged_policies_get_the_problems_that_they_get_in_process(
    fence: Fence, schema: CedarSchema, edits: list[tuple[int, int, int, str]]
) -> None:
    policies = list(EXAMPLES)
    for which, at, length, piece in edits:
        old = policies[which]
        text = old.text[:at] + piece + old.text[at + length :]
        policies[which] = PolicyText(old.id, text, old.source, old.line)

    assert fence.check(policies, schema) == check_policies(policies, schema)


def test_a_child_is_told_of_another_schema(two_schemas: tuple[CedarSchema, CedarSchema], fence: Fence) -> None:
    narrow, wide = two_schemas
    policies = [PolicyText("p", 'permit (principal is U, action == Action::"b", resource);')]

    answers = [fence.check(policies, schema) for schema in (narrow, wide, narrow)]

    assert answers == [check_policies(policies, schema) for schema in (narrow, wide, narrow)]
    assert [len(answer) for answer in answers] == [1, 0, 1]


@pytest.fixture
def two_schemas() -> tuple[CedarSchema, CedarSchema]:
    text = "entity U; action {} appliesTo {{ principal: [U], resource: [U] }};"
    return parse_schema(text.format("a")), parse_schema(text.format("a, b"))


def test_a_child_parses_a_schema_once(scene: Scene, schema: CedarSchema) -> None:
    fence = scene.fence()
    fence.prove(GOOD, schema)

    for _ in range(3):
        fence.prove(deed("schema"), schema)

    assert fence.starts == 1


def test_threads_get_their_own_answers_from_one_child(schema: CedarSchema, fence: Fence) -> None:
    fence.check(GOOD, schema)
    starts, wrong = fence.starts, []

    def ask(number: int) -> None:
        for turn in range(10):
            conditions = "principal.nope &&" * ((number + turn) % 4)
            policies = [PolicyText(f"p{number}", f"{HEAD} when {{ {conditions} true }};", f"{number}.cedar", turn + 1)]
            if fence.check(policies, schema) != check_policies(policies, schema):
                wrong.append((number, turn))

    threads = [Attempt(lambda number=number: ask(number)) for number in range(8)]  # type: ignore[misc]

    assert [thread.end() for thread in threads] == [None] * 8
    assert (wrong, fence.starts) == ([], starts)


def test_the_digest_is_the_one_by_which_a_manifest_names_the_content() -> None:
    policies = [*EXAMPLES, PolicyText("outside-ascii", '"日本語 🦀 \x7f \\u{0}"', "ignored", 99)]
    blob = encode_content([(policy.id, policy.text) for policy in policies])

    assert content_digest(policies) == describe_content(blob, len(policies)).digest


@pytest.mark.parametrize("text", ["entity {", "entity A in [B];", "\udc80", "x" * (MAX_SCHEMA_BYTES + 1), "<" * 100])
def test_a_schema_is_refused_in_the_same_words(text: str, fence: Fence) -> None:
    with pytest.raises(SchemaInvalid) as here:
        parse_schema(text)
    with pytest.raises(SchemaInvalid) as there:
        fence.prove_schema(text)

    assert there.value.message == here.value.message


def test_a_schema_that_is_one_passes_and_changes_nothing_for_policies(fence: Fence, schema: CedarSchema) -> None:
    fence.prove_schema("entity Nothing; action nothing appliesTo { principal: Nothing, resource: Nothing };")
    fence.prove((PolicyText("p", 'permit (principal, action == AgentKernel::Action::"Run", resource);'),), schema)
