"""`akpolicy policy test`, `diff` and `format`: findings, reports and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Run

CASES = """
policies: p.cedar
defaults:
  principal: {id: alice, org_id: acme, roles: [dev]}
  resource: {id: box, agent_type: claude, runtime: python}
tests:
  - {name: run, expect: allow, request: {action: Run}}
  - {name: ssh, expect: %s, request: {action: SSH}}
"""
POLICIES = """// what developers may
@id("run") @note("kept") permit (principal, action == AgentKernel::Action::"Run", resource);
@id("other") permit (principal, action == AgentKernel::Action::"Create", resource);
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    (tmp_path / "p.cedar").write_text(POLICIES, encoding="utf-8")
    path = tmp_path / "cases.yaml"
    path.write_text(CASES % "deny", encoding="utf-8")
    return path


# --- test -------------------------------------------------------------------------------------------------------------


def test_cases_that_pass_end_with_0(cli: Run, cases: Path) -> None:
    result = cli("policy", "test", cases)

    assert (result.code, result.err) == (0, "")
    assert result.out == "2 of 2 cases passed, 50 % of the policies tried\n"


def test_a_case_that_fails_is_named_with_its_line_and_ends_with_1(cli: Run, cases: Path) -> None:
    cases.write_text(CASES % "allow", encoding="utf-8")

    result = cli("policy", "test", cases.parent)

    assert result.code == 1
    assert f"{cases}:8: ssh: expected allow, got deny" in result.out
    assert result.err == "error: 1 case came out otherwise\n"


def test_junit_has_a_case_each_and_the_failures(cli: Run, cases: Path, tmp_path: Path) -> None:
    cases.write_text(CASES.replace("name: run", 'name: "r\\x00n"') % "allow", encoding="utf-8")

    cli("policy", "test", cases, "--junit", tmp_path / "report.xml")

    suite = ET.parse(tmp_path / "report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.get("name") for case in suite] == ["r\ufffdn", "ssh"]
    assert "expected allow" in str(suite[1][0].get("message"))


def test_coverage_can_be_demanded(cli: Run, cases: Path) -> None:
    result = cli("policy", "test", cases, "--coverage", "--min-coverage", 60)

    assert result.code == 1
    assert "no case is determined by `org/acme/other`" in result.out
    assert "50 % of the policies are tried, less than 60 %" in result.err
    assert cli("policy", "test", cases, "--min-coverage", 50).code == 0


def test_json_has_everything(cli: Run, cases: Path) -> None:
    answer = json.loads(cli("policy", "test", cases, "--output", "json").out)

    assert (answer["passed"], answer["coverage_percent"]) == (True, 50.0)
    assert answer["files"][0]["uncovered"] == ["org/acme/other"]
    assert answer["files"][0]["cases"][0]["policies"] == ["org/acme/run"]


def test_policies_that_cannot_be_enforced_end_with_1_and_a_file_that_makes_no_sense_with_2(
    cli: Run, cases: Path
) -> None:
    (cases.parent / "p.cedar").write_text("permit (", encoding="utf-8")
    assert cli("policy", "test", cases).code == 1
    cases.write_text("tests: 1", encoding="utf-8")
    assert cli("policy", "test", cases).code == 2
    assert cli("policy", "test", cases.parent / "none.yaml").code == 2


def test_a_policy_that_one_file_tries_is_tried(cli: Run, cases: Path) -> None:
    (cases.parent / "more.yaml").write_text(
        CASES.replace("Run", "Create").replace("SSH", "Fly") % "refused", encoding="utf-8"
    )

    result = cli("policy", "test", cases.parent, "--coverage", "--min-coverage", 100)

    assert (result.code, result.out) == (0, "4 of 4 cases passed, 100 % of the policies tried\n")
    answer = json.loads(cli("policy", "test", cases.parent, "--output", "json").out)
    assert answer["coverage_percent"] == 100.0
    assert [file["uncovered"] for file in answer["files"]] == [[], []]


def test_a_policy_that_no_file_tries_counts_and_is_named_once(cli: Run, cases: Path) -> None:
    (cases.parent / "more.yaml").write_text(CASES % "deny", encoding="utf-8")

    result = cli("policy", "test", cases.parent, "--coverage")

    assert result.out.count("no case is determined by") == 1
    assert "4 of 4 cases passed, 50 % of the policies tried" in result.out


def test_policies_of_one_name_with_other_texts_are_others(cli: Run, cases: Path) -> None:
    (cases.parent / "q.cedar").write_text(POLICIES.replace("Create", "Connect"), encoding="utf-8")
    (cases.parent / "more.yaml").write_text((CASES % "deny").replace("p.cedar", "q.cedar"), encoding="utf-8")

    result = cli("policy", "test", cases.parent, "--coverage")

    assert result.out.count("no case is determined by") == 2
    # `run` is the same in both.
    assert "33 % of the policies tried" in result.out


def test_coverage_is_not_rounded_up(cli: Run, cases: Path) -> None:
    untried = '@id("u") forbid (principal, action, resource) when { false };\n'
    ids = [f"p{number}" for number in range(2999)]
    tried = "".join(f'@id("{name}") permit (principal, action, resource);\n' for name in ids)
    (cases.parent / "p.cedar").write_text(untried + tried, encoding="utf-8")
    cases.write_text(CASES % "allow", encoding="utf-8")

    result = cli("policy", "test", cases, "--min-coverage", 100)

    assert (result.code, "99 % of the policies tried" in result.out) == (1, True)
    assert result.err == "error: 99 % of the policies are tried, less than 100 %\n"
    assert json.loads(cli("policy", "test", cases, "--output", "json").out)["coverage_percent"] == 99.9


def test_a_file_of_cases_that_is_named_twice_is_refused(cli: Run, cases: Path) -> None:
    result = cli("policy", "test", cases, cases.parent)

    assert (result.code, "named twice" in result.err) == (2, True)


@pytest.mark.parametrize("name", [b"\xff.yaml", b"\xe9\n.yml"])
def test_a_name_that_is_no_text_can_be_told(cases: Path, name: bytes) -> None:
    directory = cases.parent / "cases"
    directory.mkdir()
    (cases.parent / "p.cedar").rename(directory / "p.cedar")
    cases.rename(directory / os.fsdecode(name))
    program = "from akpolicy.cli import main; main()"
    command = [sys.executable, "-c", program, "policy", "test", str(directory), "--junit", str(cases), "--coverage"]
    for more in ([], ["--output", "json"]):
        done = subprocess.run([*command, *more], capture_output=True, check=False)

        assert (done.returncode, done.stderr) == (0, b"")
        assert "\ufffd".encode() in done.stdout
    ET.parse(cases)


def test_results_are_printed_in_any_locale(cases: Path) -> None:
    cases.write_text((CASES % "allow").replace("ssh", "\u5317\u4eac"), encoding="utf-8")
    program = "from akpolicy.cli import main; main()"
    variables = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", program, "policy", "test", str(cases)]

    text = subprocess.run(command, capture_output=True, check=False, env=variables)
    answer = subprocess.run([*command, "--output", "json"], capture_output=True, check=False, env=variables)

    assert (text.returncode, answer.returncode) == (1, 1)
    assert b"\\u5317\\u4eac: expected allow" in text.stdout
    assert json.loads(answer.stdout)["files"][0]["cases"][1]["name"] == "\u5317\u4eac"


# --- diff -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    base = {"principal": {"id": "alice", "org_id": "acme"}, "resource": {"id": "b", "agent_type": "c", "runtime": "p"}}
    lines = [json.dumps({**base, "action": action}) for action in ("Run", "SSH", "Create", "Fly")]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_what_would_change_is_grouped_by_policy(cli: Run, cases: Path, requests: Path, tmp_path: Path) -> None:
    candidate = tmp_path / "candidate.cedar"
    candidate.write_text(
        '@id("no-run") forbid (principal, action == AgentKernel::Action::"Run", resource);\n'
        '@id("ssh") permit (principal, action == AgentKernel::Action::"SSH", resource);\n',
        encoding="utf-8",
    )

    result = cli("policy", "diff", tmp_path / "p.cedar", candidate, "--requests", requests)

    assert result.code == 1
    assert result.out.splitlines() == [
        "org/acme/no-run: 1 allow -> deny (added)",
        "  line 1: alice Run b: allow -> deny",
        "org/acme/other: 1 allow -> deny (removed)",
        "  line 3: alice Create b: allow -> deny",
        "org/acme/run: 1 allow -> deny (removed)",
        "  line 1: alice Run b: allow -> deny",
        "org/acme/ssh: 1 deny -> allow (added)",
        "  line 2: alice SSH b: deny -> allow",
        "3 of 4 requests would change",
    ]
    answer = json.loads(
        cli("policy", "diff", tmp_path / "p.cedar", candidate, "--requests", requests, "--output", "json").out
    )
    assert (answer["replayed"], answer["changed"], answer["refused"], answer["foreign"]) == (4, 3, 1, 0)
    assert answer["policies"][0]["change"] == "added"


def test_policies_that_decide_alike_end_with_0_and_other_reasons_are_counted(
    cli: Run, cases: Path, requests: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed.cedar"
    renamed.write_text(POLICIES.replace('@id("run")', '@id("walk")'), encoding="utf-8")

    result = cli("policy", "diff", tmp_path / "p.cedar", renamed, "--requests", requests)

    assert (result.code, result.out) == (0, "0 of 4 requests would change, 1 by other policies\n")


def test_a_diff_without_requests_makes_no_sense(cli: Run, cases: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    policies = tmp_path / "p.cedar"

    assert cli("policy", "diff", policies, policies, "--requests", tmp_path / "none").code == 2


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_log_of_another_org_is_no_proof_that_nothing_changes(
    cli: Run, cases: Path, requests: Path, tmp_path: Path, output: str
) -> None:
    policies = tmp_path / "p.cedar"

    result = cli("policy", "diff", policies, policies, "--requests", requests, "--org", "beta", "--output", output)

    assert result.code == 1
    assert "error: nothing could be compared: none of the 4 requests is of the org `beta`" in result.err
    assert result.out == "" if output == "text" else json.loads(result.out)["foreign"] == 4


def test_a_log_without_one_valid_request_is_no_proof_either(cli: Run, cases: Path, requests: Path) -> None:
    requests.write_text("\n" + requests.read_text(encoding="utf-8").splitlines()[3], encoding="utf-8")
    policies = cases.parent / "p.cedar"

    result = cli("policy", "diff", policies, policies, "--requests", requests)

    assert (result.code, result.out) == (1, "")
    assert "nothing could be compared: all requests are refused; the first, on line 2: " in result.err


def test_what_was_left_out_is_said(cli: Run, cases: Path, requests: Path) -> None:
    text = requests.read_text(encoding="utf-8")
    requests.write_text(text + "\n" + text.splitlines()[0].replace("acme", "beta"), encoding="utf-8")
    policies = cases.parent / "p.cedar"

    result = cli("policy", "diff", policies, policies, "--requests", requests)

    assert (result.code, result.out) == (0, "0 of 4 requests would change\n")
    assert result.err == "note: 1 request of other orgs left out, 1 request refused before and after\n"


@pytest.mark.parametrize("names", [("-", "-", "r"), ("-", "p", "-"), ("p", "-", "-")])
def test_standard_input_is_read_for_one_thing(cli: Run, names: tuple[str, str, str]) -> None:
    result = cli("policy", "diff", *names[:2], "--requests", names[2])

    assert (result.code, "standard input" in result.err) == (2, True)


def test_an_org_without_a_name_is_refused(cli: Run, cases: Path, requests: Path) -> None:
    policies = cases.parent / "p.cedar"

    assert cli("policy", "diff", policies, policies, "--requests", requests, "--org", "").code == 2


@pytest.mark.parametrize("names", [("", "p"), ("p", "")])
def test_an_empty_name_is_no_directory(cli: Run, cases: Path, requests: Path, names: tuple[str, str]) -> None:
    assert cli("policy", "test", "").code == 2
    assert "is empty" in cli("policy", "diff", *names, "--requests", requests).err


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("closed", "code"), [(0, 2), (1, 1), (2, 1)])
@pytest.mark.parametrize("command", ["test", "diff"])
def test_a_closed_descriptor_is_no_crash(
    cases: Path, requests: Path, tmp_path: Path, command: str, closed: int, code: int
) -> None:
    cases.write_text(CASES % "allow", encoding="utf-8")
    other = tmp_path / "other.cedar"
    other.write_text('@id("ssh") permit (principal, action == AgentKernel::Action::"SSH", resource);', encoding="utf-8")
    log = "-" if closed == 0 else str(requests)
    arguments = [str(cases)] if command == "test" else [str(tmp_path / "p.cedar"), str(other), "--requests", log]
    closing = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    program = [sys.executable, "-c", "from akpolicy.cli import main; main()", "policy", command, *arguments]

    done = subprocess.run([sys.executable, "-c", closing, str(closed), *program], capture_output=True, check=False)

    # Only `diff` reads standard input here.
    assert done.returncode == (code if command == "diff" else 1)
    assert b"Traceback" not in done.stdout + done.stderr


# --- format -----------------------------------------------------------------------------------------------------------


def test_format_prints_and_keeps_comments_and_annotations(cli: Run, cases: Path) -> None:
    file = cases.parent / "p.cedar"
    result = cli("policy", "format", file)

    assert result.code == 0
    assert "// what developers may" in result.out
    assert '@note("kept")' in result.out
    assert file.read_text(encoding="utf-8") == POLICIES


def test_format_checks_and_writes_and_then_there_is_nothing_to_do(cli: Run, cases: Path) -> None:
    file = cases.parent / "p.cedar"

    assert cli("policy", "format", file, "--check").code == 1
    assert cli("policy", "format", file, "--write").err == f"changed {file}\n"
    assert cli("policy", "format", file, "--check").code == 0
    assert cli("policy", "format", file, "--write").err == ""
    assert file.read_text(encoding="utf-8") != POLICIES


@pytest.mark.parametrize(
    ("text", "code"), [("permit (", 1), (f"permit (principal, action, resource) when {{ {'(' * 5000} }};", 1)]
)
def test_format_refuses_what_it_cannot_lay_out(cli: Run, tmp_path: Path, text: str, code: int) -> None:
    file = tmp_path / "x.cedar"
    file.write_text(text, encoding="utf-8")

    assert cli("policy", "format", file, "--write").code == code
    assert file.read_text(encoding="utf-8") == text
