"""`akpolicy policy publish`, `history`, `show`, and the administration of orgs and keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import grpc
import pytest

from akpolicy.bundle import OfflineMode
from akpolicy.cli.durations import seconds
from akpolicy.cli.publish import OfflineModeName
from akpolicy.client.publishing import chunks
from akpolicy.engine.files import PolicyFile
from akpolicy.envelope import from_dsse_json
from akpolicy.errors import UsageError
from akpolicy.limits import MAX_CHUNK_BYTES
from akpolicy.v1 import bundle_pb2
from akpolicy.v1 import publishing_pb2 as pb
from tests.simulators.publishing import API_KEY
from tests.unit.cli.conftest import GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import Run


def test_policies_are_published_and_shown_again_as_they_were(cli: Run, server: PublishingSimulator, good: Path) -> None:
    published = cli("policy", "publish", good, "--org", "acme", "--message", "first")
    assert published.code == 0
    assert published.out.startswith("published org/acme version 1\npolicies  1 ")
    shown = cli("policy", "show", "--org", "acme")
    assert GOOD.strip() in shown.out
    assert shown.out.startswith("// org/acme version 1, digest ")


@pytest.mark.parametrize("arguments", [("publish", "", "--org", "acme"), ("validate", "")])
def test_an_empty_name_is_not_everything_here(
    cli: Run, server: PublishingSimulator, good: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(good.parent)

    result = cli("policy", *arguments)

    assert (result.code, "is empty" in result.err, server.revisions) == (2, True, [])


def test_every_condition_reaches_the_server(cli: Run, server: PublishingSimulator, good: Path) -> None:
    result = cli(
        *("policy", "publish", good, "--scope", "global", "-m", "why", "--expected-version", 0),
        *("--idempotency-key", "k1", "--offline-mode", "fail_closed", "--offline-max-age", "90m"),
        *("--lifetime", "7d", "--no-rollback", "--output", "json"),
    )
    assert result.code == 0
    header = server.revisions[0].header
    assert (header.scope, header.message, header.idempotency_key) == ("global", "why", "k1")
    assert header.HasField("expected_version")
    assert header.expected_version == 0
    assert header.offline_mode == bundle_pb2.OFFLINE_MODE_FAIL_CLOSED
    assert (header.offline_max_age_s, header.lifetime_s, header.no_rollback) == (5400, 7 * 86_400, True)
    answer = json.loads(result.out)
    assert answer["version"] == 1
    assert answer["expires_at"] == "2027-01-22T08:00:00Z"
    assert answer["repeated_request"] is False


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        (("--org", "acme", "--team", "red"), "org/acme/team/red"),
        (("--org", "acme", "--team", "red/blue team"), "org/acme/team/red%2Fblue%20team"),
        (("--org", "acme", "--user", "alice"), "org/acme/user/alice"),
        (("--org", "acme", "--user", "a@acme.com"), "org/acme/user/a%2540acme.com"),
        (("--scope", "org/acme/user/okta%2Falice"), "org/acme/user/okta%2Falice"),
    ],
)
def test_a_team_or_user_is_named_beside_its_org(
    cli: Run, server: PublishingSimulator, good: Path, options: tuple[str, ...], scope: str
) -> None:
    assert cli("policy", "publish", good, *options).code == 0
    assert server.revisions[0].header.scope == scope
    assert cli("policy", "show", *options).out.startswith(f"// {scope} version 1, digest ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "name either `--org NAME` or `--scope SCOPE`"),
        (("--org", "acme", "--scope", "org/acme"), "name either"),
        (("--team", "red"), "name either"),
        (("--scope", "org/acme", "--team", "red"), "`--team` and `--user` go with `--org`"),
        (("--org", "acme", "--team", "red", "--user", "alice"), "a team or a user, not both"),
        (("--org", "acme/team/red"), "`acme/team/red` is not an org name"),
        (("--org", "acme", "--team", ""), "is not a scope"),
        (("--org", "acme", "--user", ".."), "is not a scope"),
        (("--scope", "org/acme/user/local%2Falice"), "is not a scope"),
    ],
)
def test_what_names_no_scope_or_more_than_one_is_a_usage_error(
    cli: Run, good: Path, options: tuple[str, ...], says: str
) -> None:
    for command in (("publish", good), ("history",), ("show",), ("rollback",)):
        result = cli("policy", *command, *options)
        assert (result.code, says in result.err) == (2, True), result.err


def test_what_a_publish_replaces_and_unshadows_is_shown(cli: Run, server: PublishingSimulator, good: Path) -> None:
    server.replaces = ["global/a", "org/acme/b"]
    server.unshadows = ["global/c"]
    for options in ((), ("--dry-run",)):
        shown = cli("policy", "publish", good, "--org", "acme", "--team", "red", *options)
        assert "\nreplaces  global/a\n          org/acme/b\nunshadows global/c\n" in shown.out
    answer = json.loads(cli("policy", "publish", good, "--org", "acme", "--team", "red", "--output", "json").out)
    assert (answer["replaces"], answer["replaces_count"]) == (["global/a", "org/acme/b"], 2)
    assert (answer["unshadows"], answer["unshadows_count"]) == (["global/c"], 1)


def test_warnings_are_shown_and_the_policies_published(cli: Run, server: PublishingSimulator, tmp_path: Path) -> None:
    file = tmp_path / "careless.cedar"
    file.write_text('forbid (principal, action, resource) when { resource has image && resource.image == "x" };')
    for options in ((), ("--dry-run",), ("--unsigned", "--out", str(tmp_path / "proposal"))):
        shown = cli("policy", "publish", file, "--org", "acme", *options)
        assert (shown.code, "warning: " in shown.err, "ForbidBehindHas" in shown.err) == (0, True, True), shown.err
    answer = json.loads(cli("policy", "publish", file, "--org", "acme", "--output", "json").out)
    assert [warning["policy_id"] for warning in answer["warnings"]] == ["careless"]


def test_of_very_many_replaced_permits_the_first_are_shown(cli: Run, server: PublishingSimulator, good: Path) -> None:
    assert "replaces" not in cli("policy", "publish", good, "--org", "acme").out
    server.replaces = [f"global/{number}" for number in range(1500)]
    lines = cli("policy", "publish", good, "--org", "acme").out.splitlines()
    assert lines[-2:] == ["          global/19", "          and 1480 more"]


def test_what_is_not_said_is_left_to_the_server(cli: Run, server: PublishingSimulator, good: Path) -> None:
    cli("policy", "publish", good, "--org", "acme")
    header = server.revisions[0].header
    assert not header.HasField("expected_version")
    assert header.offline_mode == bundle_pb2.OFFLINE_MODE_UNSPECIFIED
    assert len(header.idempotency_key) == 32


def test_refused_policies_show_every_problem(cli: Run, server: PublishingSimulator, bad: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "worse.cedar"
    unfinished.write_text("permit (principal, action, resource)")
    other = tmp_path / "other.cedar"
    other.write_text("forbid (principal, action, resource)")
    result = cli("policy", "publish", unfinished, other, "--org", "acme")
    assert result.code == 1
    assert result.err.startswith("error: the server refused the policies (INVALID_ARGUMENT)\n")
    assert f"  {unfinished}:1: PolicyParseError: " in result.err
    assert f"  {other}:1: PolicyParseError: " in result.err
    assert result.err.count("\n") == 3
    assert server.revisions == []


def test_another_version_than_expected_is_refused(cli: Run, server: PublishingSimulator, good: Path) -> None:
    result = cli("policy", "publish", good, "--org", "acme", "--expected-version", 7)
    assert result.code == 1
    assert "(ABORTED): `org/acme` is at version 0" in result.err


@pytest.mark.parametrize(
    ("status", "unknown"),
    [
        (grpc.StatusCode.UNAVAILABLE, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, True),
        (grpc.StatusCode.INTERNAL, True),
        (grpc.StatusCode.INVALID_ARGUMENT, False),
        (grpc.StatusCode.PERMISSION_DENIED, False),
    ],
)
def test_the_idempotency_key_is_shown_where_the_outcome_is_unknown(
    cli: Run, server: PublishingSimulator, good: Path, status: grpc.StatusCode, unknown: bool
) -> None:
    server.abort = (status, "out of order")
    result = cli("policy", "publish", good, "--org", "acme", "--idempotency-key", "k7")
    assert ("--idempotency-key k7" in result.err) == unknown


@pytest.mark.parametrize("option", ["--lifetime", "--offline-max-age"])
def test_a_time_that_is_none_is_wrong_usage(cli: Run, server: PublishingSimulator, good: Path, option: str) -> None:
    result = cli("policy", "publish", good, "--org", "acme", option, "soon")
    assert result.code == 2
    assert f"`{option} soon` is no time" in result.err
    assert server.revisions == []


@pytest.mark.parametrize(
    ("text", "number"), [("90", 90), ("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)]
)
def test_times_are_read_with_their_unit(text: str, number: int) -> None:
    assert seconds(text, "--lifetime") == number


@pytest.mark.parametrize("text", ["", "0", "0h", "-1h", "1.5h", "1w", "h", "\u0661h", "9999999999s"])
def test_no_other_text_is_a_time(text: str) -> None:
    with pytest.raises(UsageError):
        seconds(text, "--lifetime")


def test_the_offline_modes_are_those_of_the_manifest() -> None:
    assert set(get_args(OfflineModeName)) == {mode.value for mode in OfflineMode}


def test_the_history_has_every_page_newest_first(cli: Run, server: PublishingSimulator, good: Path) -> None:
    for number in range(5):
        cli("policy", "publish", good, "--org", "acme", "--message", f"change\n{number}")
    listed = json.loads(cli("policy", "history", "--org", "acme", "--output", "json").out)
    assert [entry["version"] for entry in listed] == [5, 4, 3, 2, 1]
    assert server.pages == 3
    text = cli("policy", "history", "--org", "acme", "--limit", 3).out.splitlines()
    assert [line.split()[0] for line in text] == ["VERSION", "5", "4", "3"]
    assert text[1].endswith("change 4")


def test_an_empty_history_says_so(cli: Run, server: PublishingSimulator) -> None:
    assert cli("policy", "history", "--org", "acme").out == "nothing is published for org/acme\n"
    assert cli("policy", "history", "--org", "acme", "--output", "json").out == "[]\n"


def test_a_shown_revision_has_its_envelope_and_policies(cli: Run, server: PublishingSimulator, good: Path) -> None:
    cli("policy", "publish", good, "--org", "acme")
    answer = json.loads(cli("policy", "show", "--org", "acme", "--version", 1, "--output", "json").out)
    assert from_dsse_json(answer["envelope"]).payload == b"{}"
    assert answer["policies"] == [{"id": "all", "text": GOOD.strip()}]
    assert answer["revision"]["scope"] == "org/acme"


def test_a_policy_named_by_its_file_is_shown_with_its_id(cli: Run, server: PublishingSimulator, tmp_path: Path) -> None:
    file = tmp_path / "named.cedar"
    file.write_text("// why\npermit (principal, action, resource);\n")
    cli("policy", "publish", file, "--org", "acme")
    shown = tmp_path / "shown.cedar"
    shown.write_text(cli("policy", "show", "--org", "acme").out)
    assert '// why\n@id("named")\npermit' in shown.read_text()
    again = json.loads(cli("policy", "validate", shown, "--output", "json").out)
    assert (again["valid"], again["policy_ids"]) == (True, ["named"])


def test_a_missing_revision_is_refused(cli: Run, server: PublishingSimulator) -> None:
    result = cli("policy", "show", "--org", "acme", "--version", 9)
    assert result.code == 1
    assert "(NOT_FOUND): `org/acme` has no version 9" in result.err


# --- orgs and keys ----------------------------------------------------------------------------------------------------


def test_an_org_is_created_once(cli: Run, server: PublishingSimulator) -> None:
    made = cli("org", "create", "acme", "--output", "json")
    assert json.loads(made.out) == {"org": "acme", "trust_anchor": "ed25519:AAAA", "root_version": 1}
    again = cli("org", "create", "acme")
    assert again.code == 1
    assert "(ALREADY_EXISTS)" in again.err


def test_an_api_key_is_created_with_its_role(cli: Run, server: PublishingSimulator) -> None:
    result = cli("apikey", "create", "--org", "acme", "--role", "host", "--host-id", "h1", "--description", "x")
    assert result.out == "key id  k_1\nsecret  ak_new_secret\n"
    assert "not shown again" in result.err
    assert server.keys == [pb.CreateApiKeyRequest(org="acme", role=pb.API_KEY_ROLE_HOST, host_id="h1", description="x")]
    answer = cli("apikey", "create", "--role", "admin", "--platform", "--output", "json").out
    assert json.loads(answer) == {"key_id": "k_1", "secret": "ak_new_secret"}


@pytest.mark.parametrize("options", [[], ["--platform", "--org", "acme"]])
def test_a_key_of_the_platform_has_to_be_asked_for(cli: Run, server: PublishingSimulator, options: list[str]) -> None:
    result = cli("apikey", "create", "--role", "admin", *options)
    assert result.code == 2
    assert "either `--org NAME` or `--platform`" in result.err
    assert server.keys == []


@pytest.mark.parametrize("options", [["--role", "host"], ["--role", "admin", "--host-id", "h1"]])
def test_only_a_host_key_has_a_host(cli: Run, server: PublishingSimulator, options: list[str]) -> None:
    assert cli("apikey", "create", *options).code == 2
    assert server.keys == []


def test_an_api_key_is_revoked(cli: Run, server: PublishingSimulator) -> None:
    assert json.loads(cli("apikey", "revoke", "k_1", "--output", "json").out)["revoked_at"] == "2027-01-15T08:00:00Z"
    assert cli("apikey", "revoke", "k_2").code == 1


# --- the connection ---------------------------------------------------------------------------------------------------


def test_the_api_key_may_come_from_a_file(
    cli: Run, server: PublishingSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKPOLICY_API_KEY", "wrong")
    file = tmp_path / "key"
    file.write_text(API_KEY + "\n")
    assert cli("policy", "history", "--org", "acme", "--api-key-file", file).code == 0


def test_a_wrong_api_key_is_refused_and_never_shown(
    cli: Run, server: PublishingSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AKPOLICY_API_KEY", "ak_hunter2")
    result = cli("policy", "history", "--org", "acme")
    assert result.code == 1
    assert "(UNAUTHENTICATED)" in result.err
    assert "AKPOLICY_API_KEY" in result.err
    assert "hunter2" not in result.out + result.err


def test_without_server_or_key_the_message_says_what_to_give(
    cli: Run, server: PublishingSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AKPOLICY_API_KEY")
    no_key = cli("policy", "history", "--org", "acme")
    monkeypatch.delenv("AKPOLICY_SERVER")
    no_server = cli("policy", "history", "--org", "acme")
    assert (no_key.code, no_server.code) == (2, 2)
    assert "AKPOLICY_API_KEY" in no_key.err
    assert "--server" in no_server.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--server", "http://policy.example.com"], "plaintext"),
        (["--server", "policy.example.com"], "the server's URL"),
        (["--server", "https://127.0.0.1:1", "--ca-file", "/nonexistent.pem"], "/nonexistent.pem"),
        (["--api-key-file", "/nonexistent.key"], "/nonexistent.key"),
    ],
)
def test_a_connection_that_cannot_be_is_wrong_usage(
    cli: Run, server: PublishingSimulator, options: list[str], said: str
) -> None:
    result = cli("policy", "history", "--org", "acme", *options)
    assert result.code == 2
    assert said in result.err


def test_an_unreachable_server_says_where_and_how_to_repeat(cli: Run, server: PublishingSimulator, good: Path) -> None:
    server.__exit__()
    result = cli("policy", "publish", good, "--org", "acme", "--idempotency-key", "k9")
    assert result.code == 1
    assert f"cannot reach the policy server at `{server.url.removeprefix('http://')}`" in result.err
    assert "--idempotency-key k9" in result.err


@pytest.mark.parametrize(
    "status", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_no_failure_of_the_server_is_a_success(
    cli: Run, server: PublishingSimulator, good: Path, status: grpc.StatusCode
) -> None:
    server.abort = (status, "out of order")
    for command in (
        ["policy", "publish", good, "--org", "acme"],
        ["policy", "show", "--org", "acme"],
    ):
        result = cli(*command)
        assert result.code == 1
        assert "error: " in result.err
        assert result.out == ""


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["x", "é", "€", "𝄞"])
def test_chunks_end_between_characters_and_lose_nothing(character: str) -> None:
    data = ("a" + character * MAX_CHUNK_BYTES).encode()
    sent: list[int] = []
    parts = list(chunks([PolicyFile("a", data), PolicyFile("empty", b"")], sent.append))
    assert b"".join(part.data for part in parts) == data
    assert all(len(part.data) <= MAX_CHUNK_BYTES for part in parts)
    assert all(part.data.decode() is not None for part in parts)
    assert parts[-1] == pb.SourceChunk(name="empty")
    assert sum(sent) == len(data)


def test_bytes_that_are_no_text_are_cut_all_the_same() -> None:
    data = b"\x80" * (2 * MAX_CHUNK_BYTES + 5)
    parts = list(chunks([PolicyFile("a", data)]))
    assert b"".join(part.data for part in parts) == data
    assert all(len(part.data) <= MAX_CHUNK_BYTES for part in parts)
