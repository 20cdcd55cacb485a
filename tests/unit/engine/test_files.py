"""Policy files: every mistake is reported, with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akpolicy.engine.files import PolicyFile, cut, examine, read_policies
from akpolicy.engine.limits import MAX_PROBLEMS
from akpolicy.engine.schema import load_default_schema
from akpolicy.errors import PolicySetInvalid
from tests.unit.server.conftest import policy

if TYPE_CHECKING:
    from akpolicy.engine.schema import CedarSchema

SCHEMA = load_default_schema()


def _file(name: str, text: str | bytes) -> PolicyFile:
    return PolicyFile(name, text if isinstance(text, bytes) else text.encode())


def test_policies_of_several_files_become_one_set_in_order(schema: CedarSchema) -> None:
    files = [_file("b.cedar", policy("b1") + policy("b2")), _file("a.cedar", policy("a1"))]
    assert [p.id for p in read_policies(files, schema)] == ["b1", "b2", "a1"]


def test_mistakes_in_several_files_are_all_reported_with_file_and_line(schema: CedarSchema) -> None:
    files = [
        _file("one.cedar", policy("good") + '@id("bad")\npermit (principal, action, resourc);\n'),
        _file("two.cedar", policy("named") + "permit (principal, action, resource);\n"),
        _file("three.cedar", b"\n\xff"),
    ]
    with pytest.raises(PolicySetInvalid) as caught:
        read_policies(files, schema)
    found = {(problem.source, problem.line, problem.code) for problem in caught.value.problems}
    assert found == {
        ("one.cedar", 4, "PolicyParseError"),
        ("two.cedar", 4, "PolicyIdMissing"),
        ("three.cedar", 2, "PolicyNotUtf8"),
    }


def test_an_id_is_used_once_in_all_files_together(schema: CedarSchema) -> None:
    findings = examine(cut([_file("a.cedar", policy("same")), _file("b.cedar", policy("same"))]), schema)
    assert [(p.code, p.source, p.policy_id) for p in findings.problems] == [("PolicyIdDuplicate", "b.cedar", "same")]


@pytest.mark.parametrize("files", [[], [_file("a.cedar", "")], [_file("a.cedar", "// nothing\n")]])
def test_no_policy_at_all_is_a_mistake(schema: CedarSchema, files: list[PolicyFile]) -> None:
    assert [problem.code for problem in examine(cut(files), schema).problems] == ["EmptyPolicySet"]


def test_forty_thousand_brackets_are_refused_before_cedar_sees_them(schema: CedarSchema) -> None:
    text = '@id("deep") permit (principal, action, resource) when { ' + "(" * 40_000 + "true" + ")" * 40_000 + " };"
    codes = {problem.code for problem in examine(cut([_file("deep.cedar", text)]), schema).problems}
    assert codes == {"PolicyTooDeep", "PolicyTooLarge"}


def test_reports_are_bounded(schema: CedarSchema) -> None:
    text = "permit (principal, action, resource);\n" * (2 * MAX_PROBLEMS)
    assert len(examine(cut([_file("many.cedar", text)]), schema).problems) == MAX_PROBLEMS


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_any_bytes_are_policies_or_problems(files: list[bytes]) -> None:
    findings = examine(cut([_file(f"{number}.cedar", data) for number, data in enumerate(files)]), SCHEMA)
    assert findings.policies or findings.problems
