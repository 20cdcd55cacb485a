"""Policy files cut into policies with ids and lines."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.limits import MAX_BRACKET_DEPTH, MAX_PROBLEMS
from akpolicy.engine.source import PolicyText, split_policies
from akpolicy.errors import PolicySetInvalid, Problem
from akpolicy.limits import MAX_CONTENT_BYTES, MAX_POLICIES, MAX_POLICY_BYTES

_ANY = "permit (principal, action, resource);"


def _problems(text: str, source: str = "team policy.cedar") -> tuple[Problem, ...]:
    with pytest.raises(PolicySetInvalid) as caught:
        split_policies(text, source=source)
    return caught.value.problems


def test_a_policy_begins_on_the_line_of_its_first_token() -> None:
    text = f'// header\n\n@id("a")\n{_ANY}\n\n// about b\n// more\n@id("b") {_ANY} // tail\n'

    first, second = split_policies(text, source="p.cedar")

    assert (first.id, first.line, first.source) == ("a", 3, "p.cedar")
    assert (second.id, second.line) == ("b", 8)
    assert second.text.startswith("// about b\n// more\n@id")
    assert second.text.endswith("resource);")


def test_a_single_policy_takes_its_id_from_the_file_name() -> None:
    assert split_policies(_ANY, source="policies/allow-all.cedar") == (
        PolicyText("allow-all", _ANY, "policies/allow-all.cedar", 1),
    )


def test_an_annotation_wins_over_the_file_name() -> None:
    assert split_policies(f'@id("own"){_ANY}', source="other.cedar")[0].id == "own"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "EmptyPolicySet", 0),
        (" \n\t", "EmptyPolicySet", 0),
        ("// only\n// comments", "EmptyPolicySet", 0),
        (f"\n{_ANY}", "PolicyIdMissing", 2),
        (f'@id("a b"){_ANY}', "PolicyIdInvalid", 1),
        (f'@id(""){_ANY}', "PolicyIdInvalid", 1),
        (f"@id {_ANY}", "PolicyIdInvalid", 1),
        (f'@id("\\u{{41}}"){_ANY}', "PolicyIdInvalid", 1),
        (f'@id("{"x" * 129}"){_ANY}', "PolicyIdInvalid", 1),
        (f'@id("a")\n{_ANY[:-1]}\n', "PolicyParseError", 2),
        (f'@id("a")\n{_ANY}\n@id("b")\npermit (principal', "PolicyParseError", 4),
        ('@id("a")\npermit (principal,\naction, resource) when { "x };', "PolicyParseError", 3),
        (f'@id("a"){_ANY}\n\n@id("a"){_ANY}', "PolicyIdDuplicate", 3),
        (f'@id("a")\n// {"x" * MAX_POLICY_BYTES}\n{_ANY}', "PolicyTooLarge", 1),
        (f'@id("a")\npermit (principal, action, resource) when {{ {"(" * 64}{")" * 64} }};', "PolicyTooDeep", 1),
        ('@id("a")' + _ANY + "// \ud800" + _ANY, "PolicyNotUtf8", 0),
    ],
)
def test_a_broken_text_is_refused_with_its_line(text: str, code: str, line: int) -> None:
    (problem,) = _problems(text)

    assert (problem.code, problem.line, problem.source) == (code, line, "team policy.cedar")


def test_brackets_at_the_limit_are_accepted() -> None:
    inner = MAX_BRACKET_DEPTH - 1
    text = f'@id("a")permit (principal, action, resource) when {{ {"(" * inner}true{")" * inner} }};'

    assert len(split_policies(text, source="x")) == 1


def test_forty_thousand_brackets_are_refused_before_any_parse() -> None:
    codes = {problem.code for problem in _problems(f'@id("a")permit(principal,action,resource) when {{ {"(" * 40_000}')}

    assert codes == {"PolicyTooLarge", "PolicyTooDeep", "PolicyParseError"}


def test_one_policy_of_two_megabytes_is_refused() -> None:
    (problem,) = _problems(f'@id("big")permit(principal,action,resource) when {{ "{"x" * 2_000_000}" == "" }};')

    assert (problem.code, problem.policy_id) == ("PolicyTooLarge", "big")


def test_two_megabytes_of_many_policies_are_legal() -> None:
    pad = "x" * 1000
    text = "\n".join(f'// {pad}\n@id("p{i}"){_ANY}' for i in range(2000))

    assert len(split_policies(text, source="many.cedar")) == 2000


def test_a_text_over_the_content_limit_is_refused() -> None:
    assert _problems("/" * (MAX_CONTENT_BYTES + 1))[0].code == "PolicyTooLarge"


def test_more_policies_than_a_scope_may_have_are_refused() -> None:
    assert [problem.code for problem in _problems(";" * (MAX_POLICIES + 1))] == ["TooManyPolicies"]


def test_every_problem_is_reported_in_the_order_of_the_text() -> None:
    text = f'{_ANY}\n@id("a b"){_ANY}\n@id("c"){_ANY}\n@id("c"){_ANY}\n@id("d")permit'

    found = [(problem.line, problem.code) for problem in _problems(text)]

    assert found == [(1, "PolicyIdMissing"), (2, "PolicyIdInvalid"), (4, "PolicyIdDuplicate"), (5, "PolicyParseError")]


def test_a_duplicate_id_names_both_lines() -> None:
    (problem,) = _problems(f'@id("a"){_ANY}\n\n\n@id("a"){_ANY}')

    assert "line 4" in problem.message
    assert "line 1" in problem.message


def test_problems_are_limited_in_number() -> None:
    assert len(_problems(_ANY * 500)) == MAX_PROBLEMS


@given(st.text(max_size=300))
def test_no_text_ends_in_another_error(text: str) -> None:
    with contextlib.suppress(PolicySetInvalid):
        found = split_policies(text, source="any.cedar")
        assert found
        assert all(policy.text in text and policy.text.endswith(";") for policy in found)


@given(st.lists(st.sampled_from(["\n", "// note\n", "  "]), max_size=6), st.integers(1, 5))
def test_texts_put_together_again_give_the_same_policies(gaps: list[str], count: int) -> None:
    text = "".join(f'{"".join(gaps)}@id("p{i}") {_ANY}' for i in range(count))

    found = split_policies(text, source="x")

    again = split_policies("\n".join(policy.text for policy in found), source="x")
    assert [(policy.id, policy.text) for policy in again] == [(policy.id, policy.text) for policy in found]
    lines = text.split("\n")
    assert all(f'@id("{policy.id}")' in lines[policy.line - 1] for policy in found)
