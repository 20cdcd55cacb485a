"""`akpolicy policy validate`: where the mistakes are, offline and by a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.cli import files as policy_files
from tests.simulators.schemas import DEPLOY, OWN
from tests.unit.cli.conftest import BAD, GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import Run


def test_good_policies_are_counted(cli: Run, good: Path) -> None:
    result = cli("policy", "validate", good)
    assert (result.code, result.out, result.err) == (0, "ok: 1 policy in 1 file\n", "")


def test_a_mistake_is_named_with_file_line_code_and_policy(cli: Run, bad: Path) -> None:
    result = cli("policy", "validate", bad)
    assert result.code == 1
    assert result.out.startswith(f"{bad}:3: PolicyValidationError: policy `typo`: attribute `rolez`")
    assert result.err == "error: 1 problem in 1 file\n"


SKIPPED = """forbid (principal, action == AgentKernel::Action::"Exec", resource)
when { context has sudo && context.sudo };
"""


def test_a_forbid_that_is_skipped_with_an_attribute_is_a_warning(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "no-sudo.cedar"
    file.write_text(SKIPPED)
    result = cli("policy", "validate", file)
    answer = json.loads(cli("policy", "validate", file, "--output", "json").out)

    assert (result.code, result.out) == (0, "ok: 1 policy in 1 file\n")
    assert result.err.startswith(f"warning: {file}:1: ForbidBehindHas: policy `no-sudo`: matches only where `context")
    assert [warning["code"] for warning in answer["warnings"]] == ["ForbidBehindHas"]


def test_the_mistakes_of_all_files_are_reported_at_once(cli: Run, good: Path, bad: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished.cedar"
    unfinished.write_text("permit (principal, action, resource)")
    latin = tmp_path / "latin.cedar"
    latin.write_bytes(b"// first line\n// caf\xe9\n" + GOOD.encode())
    result = cli("policy", "validate", good, unfinished, latin, bad, "--output", "json")
    answer = json.loads(result.out)
    assert result.code == 1
    assert answer["valid"] is False
    assert {(problem["source"], problem["line"], problem["code"]) for problem in answer["problems"]} == {
        (str(unfinished), 1, "PolicyParseError"),
        (str(latin), 2, "PolicyNotUtf8"),
        (str(bad), 3, "PolicyValidationError"),
    }


def test_json_lists_the_policies(cli: Run, good: Path) -> None:
    result = cli("policy", "validate", good, "--output", "json")
    assert json.loads(result.out) == {"valid": True, "problems": [], "policy_ids": ["all"], "warnings": []}


def test_a_directory_means_its_cedar_files_in_order(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.cedar", "a.cedar", "sub/c.cedar"):
        (tmp_path / name).write_text("permit (principal, action, resource);")
    (tmp_path / "notes.txt").write_text("no policy")
    result = cli("policy", "validate", tmp_path, "--output", "json")
    assert json.loads(result.out)["policy_ids"] == ["a", "b", "c"]


def test_a_file_below_a_directory_may_have_a_name_that_is_no_text(
    cli: Run, server: PublishingSimulator, tmp_path: Path
) -> None:
    file = tmp_path / "a\udcff.cedar"
    file.write_text('@id("a")\npermit (principal, action, resource);')
    for options in ((), ("--server", server.url, "--org", "acme")):
        result = cli("policy", "validate", tmp_path, *options)
        assert (result.code, result.err) == (0, "")
    file.write_text("permit")
    assert "a\ufffd.cedar:1: " in cli("policy", "validate", tmp_path).out


def test_one_id_in_two_files_is_a_mistake(cli: Run, good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.cedar"
    other.write_text(GOOD)
    result = cli("policy", "validate", good, other)
    assert result.code == 1
    assert "PolicyIdDuplicate" in result.out


def test_files_that_cannot_be_read_are_wrong_usage(cli: Run, good: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ([tmp_path / "missing.cedar"], "No such file"),
        ([empty], "has no *.cedar file"),
        ([good, good], "named twice"),
        ([tmp_path, good], "named twice"),
    ):
        result = cli("policy", "validate", *arguments)
        assert result.code == 2
        assert result.err.startswith("error: ")
        assert said in result.err


def test_more_bytes_than_a_scope_may_have_are_refused_before_they_are_read(
    cli: Run, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_files, "MAX_CONTENT_BYTES", 10)
    result = cli("policy", "validate", good)
    assert result.code == 1
    assert "PolicyTooLarge" in result.err


def test_a_server_finds_the_same_mistakes(cli: Run, server: PublishingSimulator, bad: Path) -> None:
    offline = cli("policy", "validate", bad, "--output", "json")
    asked = cli("policy", "validate", bad, "--output", "json", "--server", server.url, "--org", "acme")
    assert asked == offline
    assert server.sources == {str(bad): BAD.encode()}


def test_a_server_in_the_environment_is_not_asked(cli: Run, server: PublishingSimulator, good: Path) -> None:
    assert cli("policy", "validate", good).code == 0
    assert server.sources == {}


@pytest.mark.parametrize(
    "options",
    [["--scope", "team/x"], ["--org", "a b"], ["--org", "x", "--scope", "org/x"], ["--server", "http://[::1]"]],
)
def test_a_scope_that_is_none_is_wrong_usage(cli: Run, good: Path, options: list[str]) -> None:
    assert cli("policy", "validate", good, *options).code == 2


# --- an org's own schema ----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "acme.cedarschema"
    file.write_text(OWN)
    return file


def test_policies_are_checked_by_an_orgs_own_schema(cli: Run, tmp_path: Path, own: Path) -> None:
    policies = tmp_path / "deploy.cedar"
    policies.write_text(DEPLOY)
    assert cli("policy", "validate", policies).code == 1
    assert cli("policy", "validate", policies, "--schema", own).code == 0


def test_a_schema_that_hosts_could_not_use_is_refused(cli: Run, good: Path, tmp_path: Path) -> None:
    for text, code in (("nonsense", "SchemaInvalid"), ("entity A;", "SchemaUnsupported")):
        (tmp_path / "wrong.cedarschema").write_text(text)
        result = cli("policy", "validate", good, "--schema", tmp_path / "wrong.cedarschema")
        assert (result.code, code in result.err) == (1, True)


def test_what_is_no_file_of_a_schema_is_a_usage_error(cli: Run, good: Path, tmp_path: Path) -> None:
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "latin").write_bytes(b"// caf\xe9")
    (tmp_path / "large").write_text("x" * (2**20 + 1))
    for name, says in (
        ("blank", "is blank"),
        ("latin", "is not UTF-8"),
        ("large", "bytes"),
        ("missing", "cannot read"),
    ):
        result = cli("policy", "validate", good, "--schema", tmp_path / name)
        assert (result.code, says in result.err) == (2, True), result.err


def test_a_server_is_not_given_a_schema_to_check_by(cli: Run, good: Path, own: Path) -> None:
    result = cli("policy", "validate", good, "--schema", own, "--server", "http://127.0.0.1:1", "--org", "acme")
    assert (result.code, "offline" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--scope", "global", "--default-schema"), "`global` has no schema of its own"),
        (("--org", "acme", "--team", "red", "--default-schema"), "`org/acme/team/red` has no schema of its own"),
        (("--org", "acme", "--user", "alice", "--schema", "FILE"), "`org/acme/user/alice` has no schema of its own"),
        (("--org", "acme", "--schema", "FILE", "--default-schema"), "exclude each other"),
    ],
)
def test_only_an_org_can_be_given_a_schema_and_one_at_a_time(
    cli: Run, good: Path, own: Path, options: tuple[str, ...], says: str
) -> None:
    given = [own if option == "FILE" else option for option in options]
    for unsigned in ((), ("--unsigned", "--out", own.parent / "p.json")):
        result = cli("policy", "publish", good, "--server", "http://127.0.0.1:1", *given, *unsigned)
        assert (result.code, says in result.err) == (2, True), result.err
