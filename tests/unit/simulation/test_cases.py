"""Files of cases: strict YAML, mistakes with their lines, and results that say what came out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from akpolicy.errors import PolicyTooLarge, UsageError
from akpolicy.simulation.cases import read_cases
from akpolicy.simulation.runner import FileResult, run_cases
from akpolicy.simulation.yaml_subset import MAX_BYTES, load

POLICIES = """
@id("dev") permit (principal, action == AgentKernel::Action::"Run", resource) when { principal.roles.contains("dev") };
@id("never") forbid (principal, action, resource) when { false };
"""
HEAD = """policies: p.cedar
defaults:
  principal: {id: alice, org_id: acme}
  action: Run
  resource: {id: box, agent_type: claude, runtime: python}
tests:
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "p.cedar").write_text(POLICIES, encoding="utf-8")
    return tmp_path


def run(directory: Path, text: str) -> FileResult:
    path = directory / "cases.yaml"
    path.write_text(text, encoding="utf-8")
    return run_cases(read_cases(path))


def problems(directory: Path, case: str) -> tuple[str, ...]:
    [result] = run(directory, HEAD + case).results
    return result.problems


def test_cases_start_from_the_defaults_and_change_single_values(directory: Path) -> None:
    found = run(
        directory,
        HEAD
        + "  - {name: no role, expect: deny}\n"
        + "  - {name: a role, expect: allow, policies: [dev], request: {principal: {roles: [dev]}}}\n",
    )

    assert [result.passed for result in found.results] == [True, True]
    assert found.file.org == "acme"
    assert found.uncovered == ("org/acme/never",)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("  - {name: n, expect: allow}", ["expected allow, got deny", "no policy permits"]),
        ("  - {name: n, expect: deny, reason: forbidden}", ["expected the reason forbidden, got no_permit"]),
        ("  - {name: n, expect: deny, policies: [never]}", ["expected `never` to determine it"]),
        ("  - {name: n, expect: deny, deciding_layer: global}", ["expected `global` to decide"]),
        ("  - {name: n, expect: refused}", ["expected refused, got deny"]),
        (
            "  - {name: n, expect: allow, policies: [], request: {principal: {roles: [dev]}}}",
            ["`org/acme/dev` determined it too"],
        ),
        (
            "  - {name: n, expect: refused, field: action, request: {context: {x: 1}}}",
            ["expected a refusal for `action`", "context"],
        ),
        ("  - {name: n, expect: allow, request: {context: {x: 1}}}", ["the request is refused"]),
    ],
)
def test_what_comes_out_otherwise_is_said(directory: Path, case: str, words: list[str]) -> None:
    found = " ".join(problems(directory, case))

    assert all(word in found for word in words), found


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (HEAD + "  - {name: n, expect: maybe}", 7, "`expect` must be"),
        (HEAD + "  - {expect: deny}", 7, "needs a `name`"),
        (HEAD + "  - {name: n, expect: deny, expected: x}", 7, "unknown key `expected`"),
        (HEAD + "  - {name: n, expect: deny, reason: because}", 7, "`reason` must be one of"),
        (HEAD + "  - {name: n, expect: deny, request: {principal: {roles: dev}}}", 7, "roles"),
        (HEAD + "  - {name: n, expect: deny, request: {user: x}}", 7, "unknown key `user`"),
        (
            HEAD + "  - {name: n, expect: refused, policies: [dev]}",
            7,
            "`policies` has no meaning beside `expect: refused`",
        ),
        (HEAD + "  - {name: n, expect: refused, policies: []}", 7, "`policies` has no meaning"),
        (HEAD + "  - {name: n, expect: refused, reason: no_permit}", 7, "`reason` has no meaning"),
        (HEAD + "  - {name: n, expect: refused, deciding_layer: org/acme}", 7, "`deciding_layer` has no meaning"),
        (HEAD + "  - {name: n, expect: deny, field: action}", 7, "`field` has no meaning beside `expect: deny`"),
        (HEAD + "  - {name: n, expect: allow, field: action}", 7, "`field` has no meaning beside `expect: allow`"),
        (HEAD + "  - {name: n, expect: refused, field: ''}", 7, "`field` must be a text"),
        (HEAD + "  - {name: n, expect: deny, reason: ''}", 7, "`reason` must be one of"),
        (HEAD + "  - {name: n, expect: deny, reason: [forbidden]}", 7, "`reason` must be one of"),
        (HEAD + "  - {name: n, expect: deny, reason: permitted}", 7, "`reason` must be one of"),
        (HEAD + "  - {name: n, expect: allow, reason: forbidden}", 7, "`reason` must be one of `permitted`"),
        (HEAD + "  - {name: n, expect: deny, reason: policy_stale}", 7, "`reason` must be one of"),
        (HEAD + "  - {name: n, expect: deny, source: {a: b}}", 7, "`source` must be one of"),
        (HEAD + "  - {name: n, expect: deny, policies: [dev, dev]}", 7, "`dev` is there twice"),
        (HEAD + "  - {name: n, expect: deny, description: [x]}", 7, "`description` must be a text"),
        (HEAD.replace("{id: alice, org_id: acme}", "alice") + "  - {name: n, expect: deny}", 3, "`principal` must be"),
        (HEAD.replace("Run", "[Run]") + "  - {name: n, expect: deny}", 3, "`action` must be a text"),
        ("description: 1\n" + HEAD + "  - {name: n, expect: deny}", 1, "`description` must be a text"),
        (HEAD + "  - {name: n, expect: deny, request: {resource: {max_memory_mb: 010}}}", 7, "`010` is no"),
        (HEAD + f"  - {{name: {'1' * 5000}, expect: deny}}", 7, "is no text, whole number"),
        (HEAD + '  - {name: "\\ud800", expect: deny}', 7, "is no text"),
        (HEAD + '  - {name: n, "\\udfff": x}', 7, "is no text"),
        (HEAD + "  - {name: n, name: m, expect: deny}", 7, "`name` is there twice"),
        (HEAD + "  - {name: n, 'name': m, expect: deny}", 7, "`name` is there twice"),
        (HEAD + "  - {name: n, expect: deny, request: {principal: {id: a, id: b}}}", 7, "`id` is there twice"),
        (HEAD + "  - {name: n, expect: deny, <<: {expect: allow}}", 7, "`<<` is no text"),
        ("layers: {org/acme: a, org/acme: b}\ntests: [{name: n, expect: refused}]", 1, "`org/acme` is there twice"),
        (HEAD + "  - {name: 1.5, expect: deny}", 7, "`1.5` is no text"),
        (HEAD + "  - {name: 2026-01-01, expect: deny}", 7, "put a text in quotes"),
        (HEAD + "  - {name: n, expect: ~}", 7, "is no text"),
        (HEAD + "  - {1: n}", 7, "a key must be a text"),
        (HEAD + "  - !!python/object:os.system {a: b}", 7, "has no place here"),
        (HEAD + "  - [", 7, "is not YAML"),
        (HEAD + "  - n", 1, "a case must be a mapping"),
        ("policies: p.cedar\ntests: []", 1, "at least one case"),
        ("tests: [{name: n, expect: refused}]", 1, "`org` must name"),
        ("org: acme\ntests: [{name: n, expect: refused}]", 1, "give either `layers`"),
        ("layers: {org/a/b: x}\ntests: [{name: n, expect: refused}]", 1, "is not a scope"),
        ("org: acme\nlayers: {org/b: x}\ntests: [{name: n, expect: refused}]", 2, "is not of the org"),
        ("org: acme\npolicies: []\ntests: [{name: n, expect: refused}]", 1, "must be a file"),
        ("[]", 1, "must be a mapping"),
    ],
)
def test_a_mistake_in_a_file_has_its_line(directory: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(directory, text)

    assert f"cases.yaml:{line}: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"a: " + b"x" * MAX_BYTES,
        b"# nothing",
        b'"\\U00110000"',
        b'"\\UFFFFFFFF"',
        b"a\x00b",
        b"[" * 100_000,
        b"- " * 50_000,
        b"a\n---\nb",
        b"*nowhere",
    ],
)
def test_what_is_no_file_of_cases_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        load(data, "x.yaml")


def test_aliases_count_as_what_they_stand_for() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]" for n in range(9)
    )
    with pytest.raises(UsageError, match="more than"):
        load(bomb.encode(), "x.yaml")


def test_a_value_within_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="nested"):
        load(b"&a [*a]", "x.yaml")


@pytest.mark.parametrize("name", ['"a\\0b"', "/dev/zero", "nowhere", "."])
@pytest.mark.parametrize("key", ["policies", "schema"])
def test_a_file_that_cannot_be_read_is_an_error(directory: Path, key: str, name: str) -> None:
    head = HEAD.replace("p.cedar", name) if key == "policies" else f"schema: {name}\n{HEAD}"

    with pytest.raises((UsageError, PolicyTooLarge)):
        run(directory, head + "  - {name: n, expect: deny}")


def test_a_file_of_cases_without_an_end_is_not_read_to_it() -> None:
    with pytest.raises(UsageError, match="more than"):
        read_cases(Path("/dev/zero"))


def test_an_id_that_two_policies_have_is_no_exact_expectation(directory: Path) -> None:
    layers = "layers: {global: p.cedar, org/acme: p.cedar}\n" + HEAD.removeprefix("policies: p.cedar\n")
    (directory / "p.cedar").write_text('@id("no") forbid (principal, action, resource);', encoding="utf-8")

    [short] = run(directory, layers + "  - {name: n, expect: deny, policies: ['no']}").results
    [whole] = run(directory, layers + "  - {name: n, expect: deny, policies: [global/no, org/acme/no]}").results

    assert short.problems == ("`no` is `global/no` and `org/acme/no`, which both determined it; write them out",)
    assert whole.problems == ()
