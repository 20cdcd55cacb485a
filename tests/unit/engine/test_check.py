"""What a publish is told about policies that cannot be enforced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine import locate
from akpolicy.engine.check import check_policies
from akpolicy.engine.compile import compile_layer
from akpolicy.engine.decide import Reason, decide
from akpolicy.engine.limits import MAX_OPERATORS, MAX_PROBLEMS
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.limits import KIB, MAX_POLICIES

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema
    from akpolicy.errors import Problem
    from tests.unit.engine.conftest import MakeRequest

_ANY = "permit (principal, action, resource);"
_RUN = """// about this policy
@id("p")
permit (
  principal,
  action == AgentKernel::Action::"Run",
  resource
)
when {
  principal.org_id == "acme" &&
  %s
};
"""
_MISTAKE_LINE = 10


def _check(text: str, schema: CedarSchema) -> tuple[Problem, ...]:
    return check_policies(split_policies(text, source="p.cedar"), schema)


def test_the_example_policies_have_no_problem(example_policies: str, schema: CedarSchema) -> None:
    assert _check(example_policies, schema) == ()


@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        ("principal.emial == 1", "PolicyValidationError", "did you mean `email`?"),
        ("principal.zebra == 1", "PolicyValidationError", "attribute `zebra` on entity type `AgentKernel::User` not"),
        ("context.domain == 1", "PolicyValidationError", "not in context of action `Run`"),
        ("resource is AgentKernel::Sandbx", "PolicyValidationError", "did you mean `Sandbox`?"),
        ("1 + principal.email == 2", "PolicyValidationError", "expected Long but saw String"),
        ("principal.mfa_verified == 1", "PolicyValidationError", "Bool and Long are not compatible"),
        ('principal.teams.contains("x")', "PolicyValidationError", "test `has teams` first"),
        ('resource.name == "x"', "PolicyValidationError", "narrow the policy's scope"),
        ('ip("zz").isLoopback()', "PolicyValidationError", "failed to parse as IP address"),
        ("foo(1)", "PolicyParseError", "`foo` is not a valid function"),
        ("principal.email = 1", "PolicyParseError", "'=' is not a valid operator"),
        ("context.source +* 1", "PolicyParseError", "unexpected token `*`"),
        ("99999999999999999999 == 1", "PolicyParseError", "number too large"),
        ('"\\q" == ""', "PolicyParseError", "not a valid escape"),
        ("true # no comment", "PolicyParseError", "invalid token"),
        ("principal == ?principal", "PolicyTemplate", "write the policy out"),
    ],
)
def test_a_mistake_is_reported_on_its_line(mistake: str, code: str, words: str, schema: CedarSchema) -> None:
    for problem in _check(_RUN % mistake, schema):
        assert (problem.code, problem.line, problem.policy_id) == (code, _MISTAKE_LINE, "p")
    assert words in str(_check(_RUN % mistake, schema)[0])


def test_lines_count_in_the_file_and_not_in_the_policy(schema: CedarSchema) -> None:
    text = f'@id("ok"){_ANY}\n\n// a comment\n\n' + _RUN % "principal.emial == 1"

    assert [problem.line for problem in _check(text, schema)] == [_MISTAKE_LINE + 4]


def test_an_open_bracket_is_named(schema: CedarSchema) -> None:
    (problem,) = _check(_RUN % "(true", schema)

    assert "`(` of line 10 is not closed" in problem.message


def test_a_missing_semicolon_is_guessed(schema: CedarSchema) -> None:
    (problem,) = _check(f'@id("a"){_ANY[:-1]}\n@id("b"){_ANY}', schema)

    assert (problem.line, "missing before it" in problem.message) == (2, True)


def test_problems_of_every_kind_come_in_the_order_of_the_policies(schema: CedarSchema) -> None:
    policies = [
        PolicyText("invalid", '@id("invalid")permit(principal, action, resource) when { principal.nope };', "s", 1),
        PolicyText("fine", _ANY, "s", 2),
        PolicyText("broken", "permit(principal, action);", "s", 3),
        PolicyText("other", f'@id("another"){_ANY}', "s", 4),
        PolicyText("two", _ANY + _ANY, "s", 5),
        PolicyText("comment", "// nothing", "s", 6),
        PolicyText("slot", "permit(principal == ?principal, action, resource);", "s", 7),
        PolicyText("fine", _ANY, "s", 8),
        PolicyText("a b", _ANY, "s", 9),
        PolicyText("open", _ANY[:-1], "s", 10),
        PolicyText("deep", f"permit(principal, action, resource) when {{ {'(' * 40_000} }};", "s", 11),
    ]

    found = [(problem.line, problem.code) for problem in check_policies(policies, schema)]

    assert found == [
        (1, "PolicyValidationError"),
        (3, "PolicyParseError"),
        (4, "PolicyIdInvalid"),
        (5, "PolicyCountMismatch"),
        (6, "PolicyCountMismatch"),
        (7, "PolicyTemplate"),
        (8, "PolicyIdDuplicate"),
        (9, "PolicyIdInvalid"),
        (10, "PolicyParseError"),
        (11, "PolicyTooLarge"),
        (11, "PolicyTooDeep"),
    ]


def test_the_same_mistakes_give_the_same_report(schema: CedarSchema) -> None:
    text = "".join(
        f'@id("p{i}")permit(principal, action, resource) when {{ principal.a || resource.b || 1 + "" == 2 }};\n'
        for i in range(5)
    )

    reports = {_check(text, schema) for _ in range(5)}

    assert len(reports) == 1


def test_no_policy_is_a_problem(schema: CedarSchema) -> None:
    assert [problem.code for problem in check_policies([], schema)] == ["EmptyPolicySet"]


def test_too_many_policies_are_a_problem(schema: CedarSchema) -> None:
    policies = [PolicyText("p", _ANY)] * (MAX_POLICIES + 1)

    assert [problem.code for problem in check_policies(policies, schema)] == ["TooManyPolicies"]


@pytest.mark.parametrize("bad", ["permit(principal);", "permit(principal, action, resource) when { principal.nope };"])
def test_problems_are_limited_in_number(bad: str, schema: CedarSchema) -> None:
    policies = [PolicyText(f"p{i}", bad, "s", i + 1) for i in range(MAX_PROBLEMS + 50)]

    assert len(check_policies(policies, schema)) == MAX_PROBLEMS


def test_no_line_is_looked_for_of_a_mistake_that_is_not_shown(
    schema: CedarSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[str] = []

    def line(policy: PolicyText, message: str, schema: CedarSchema) -> int:
        looked_for.append(policy.id)
        return locate.validation_error_line(policy, message, schema)

    monkeypatch.setattr("akpolicy.engine.check.validation_error_line", line)
    condition = " || ".join(f"principal.nope{i}" for i in range(MAX_PROBLEMS - 1))
    text = f"permit (principal, action, resource) when {{ {condition} }};"

    problems = check_policies([PolicyText(f"p{i}", text, "s", i + 1) for i in range(4)], schema)

    assert [problem.policy_id for problem in problems] == ["p0"] * (MAX_PROBLEMS - 1) + ["p1"]
    assert set(looked_for) == {"p0", "p1"}


def test_cedar_never_validates_much_at_once(schema: CedarSchema, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[str] = []
    validate = cedarpy.validate_policies

    def recording(text: str, *args: Any, **options: Any) -> cedarpy.ValidationResult:
        batches.append(text)
        return validate(text, *args, **options)

    monkeypatch.setattr("cedarpy.validate_policies", recording)
    sizes = [0] * 600 + [15_000] * 10 + [0] + [15_000] * 3
    policies = [PolicyText(f"p{i}", f"{_ANY}// {i} {'x' * size}") for i, size in enumerate(sizes)]

    assert check_policies(policies, schema) == ()
    assert "\n".join(batches) == "\n".join(policy.text for policy in policies)
    assert max(map(len, batches)) < 64 * KIB
    assert max(batch.count("\n") + 1 for batch in batches) == 256


_WORDS = st.sampled_from(
    [
        "permit",
        "(",
        ")",
        "principal",
        "action",
        "resource",
        ",",
        "when",
        "{",
        "}",
        "&&",
        "==",
        '"a"',
        "1",
        ".",
        "has",
        "\n",
    ]
)


@given(st.lists(_WORDS, max_size=30))
def test_any_words_are_judged_and_a_line_is_within_the_text(schema: CedarSchema, words: list[str]) -> None:
    text = "permit (principal, action, resource) when { " + " ".join(words) + "};"

    for problem in check_policies([PolicyText("p", text, "s", 1)], schema):
        assert 1 <= problem.line <= 1 + text.count("\n")


@pytest.mark.parametrize(
    "condition",
    ["principal" + ".a" * 5000, "1" + "+1" * 7000 + " == 2", "principal has a" + ".a" * 7000, "if true then " * 1001],
    ids=["members", "sums", "has", "ifs"],
)
def test_a_chain_that_cedar_could_not_evaluate_is_refused_before_cedar_sees_it(
    schema: CedarSchema, condition: str
) -> None:
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    [problem] = check_policies([PolicyText("p", text)], schema)
    assert problem.code == "PolicyTooDeep"
    assert "operators" in problem.message


def test_operators_inside_strings_and_comments_do_not_count(schema: CedarSchema) -> None:
    text = f'permit (principal, action, resource) when {{ "{"." * 5000}" == "a" }}; // {"+" * 5000}'
    text = text.replace("; //", " //") + "\n;"
    assert check_policies([PolicyText("p", text)], schema) == ()


def test_a_policy_at_the_limit_of_operators_is_evaluated_without_an_error(
    schema: CedarSchema, make_request: MakeRequest
) -> None:
    text = f"forbid (principal, action, resource) when {{ {' && '.join(['true'] * (MAX_OPERATORS + 1))} }};"
    layer = compile_layer("org/acme", [PolicyText("p", text)], schema)
    verdict = decide([layer], make_request(), schema)
    assert (verdict.reason, verdict.errors) == (Reason.FORBIDDEN, ())
