"""`akpolicy org freeze` and `unfreeze`, with the keys on the server and with keys of people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
import pytest

from akpolicy.freeze import FREEZE_POLICY, FREEZE_POLICY_ID, is_freeze
from akpolicy.signing import PrivateKeySigner
from akpolicy.v1 import publishing_pb2 as pb
from tests.unit.cli.conftest import GOOD, Terminal
from tests.unit.cli.test_policy_proposals import prepare, two_must_sign

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run

LACKING = (grpc.StatusCode.FAILED_PRECONDITION, "1 of 1 keys must sign `org/acme`, this server holds 0")


def test_an_org_is_frozen_and_freed_by_the_server(cli: Run, server: PublishingSimulator, good: Path) -> None:
    cli("policy", "publish", good, "--org", "acme")
    frozen = cli("org", "freeze", "acme", "-m", "leak")
    assert frozen.out.startswith("acme is frozen: every host denies everything\nversion  2\n")
    assert cli("org", "freeze", "acme").out.startswith("acme is already frozen")
    answer = json.loads(cli("org", "unfreeze", "acme", "--output", "json").out)
    assert (answer["frozen"], answer["changed"], answer["revision"]["kind"]) == (False, True, "unfreeze")
    assert cli("org", "unfreeze", "acme").out.startswith("acme is already not frozen")


@pytest.fixture
def without_keys(server: PublishingSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server lack the keys of the org."""

    def refuse(request: pb.SetFreezeRequest, context: grpc.ServicerContext) -> pb.SetFreezeResponse:
        newest = server.revisions[-1] if server.revisions else None
        frozen = (
            newest is not None
            and not server.freeze_is_dropped
            and is_freeze([(policy.id, policy.text) for policy in newest.policies])
        )
        if newest is None or frozen != request.frozen:
            context.abort(*LACKING)
            raise AssertionError
        return pb.SetFreezeResponse(revision=newest.details, changed=False)

    monkeypatch.setattr(server, "SetFreeze", refuse)
    server.__exit__()
    server.__enter__()
    monkeypatch.setenv("AKPOLICY_SERVER", server.url)


def sign_and_publish(cli: Run, good: Path, out: Path, key: str) -> None:
    prepare(cli, good, out, "--offline-mode", "fail_closed")
    assert cli("policy", "sign", out, "--key", key, "--yes").code == 0
    assert cli("policy", "publish", "--envelope", out).code == 0


def test_an_org_whose_keys_are_elsewhere_is_frozen_with_them(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    refused = cli("org", "freeze", "acme")
    assert refused.code == 1
    assert "give yours: `--key URI`" in refused.err
    frozen = cli("org", "freeze", "acme", "--key", key, "--message", "leak")
    assert frozen.code == 0, frozen.err
    assert frozen.out.startswith("acme is frozen")
    newest = server.revisions[-1]
    assert [(policy.id, policy.text) for policy in newest.policies] == [(FREEZE_POLICY_ID, FREEZE_POLICY)]
    assert newest.header.message == "leak"
    assert cli("org", "freeze", "acme", "--key", key).out.startswith("acme is already frozen")
    assert len(server.revisions) == 2
    freed = cli("org", "unfreeze", "acme", "--key", key)
    assert freed.code == 0, freed.err
    assert [(policy.id, policy.text) for policy in server.revisions[-1].policies] == [("all", GOOD.strip())]
    assert cli("org", "unfreeze", "acme", "--key", key).out.startswith("acme is already not frozen")
    assert len(server.revisions) == 3


def test_a_freeze_that_nobody_here_signed_is_not_ended_with_these_keys(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str, key_file: KeyFile
) -> None:
    """What came before the freeze must have been signed by one of the keys that are to sign it again."""
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    other = key_file(PrivateKeySigner.generate(), "other")
    result = cli("org", "unfreeze", "acme", "--key", other)
    assert result.code == 1
    assert "none of these keys signed version 2 of `org/acme`" in result.err
    assert len(server.revisions) == 2


def test_other_policies_than_were_signed_are_not_signed_again(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    server.revisions[0].policies[0] = type(server.revisions[0].policies[0])(
        "all", GOOD.strip().replace("permit", "forbid"), "content", 1
    )
    result = cli("org", "unfreeze", "acme", "--key", key)
    assert result.code == 1
    assert "not those that were signed" in result.err
    assert len(server.revisions) == 2


def test_a_freeze_that_the_server_prepared_otherwise_is_not_signed(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    server.policies_instead = server.revisions[0].policies
    result = cli("org", "freeze", "acme", "--key", key)
    assert result.code == 1
    assert "prepared other policies" in result.err
    assert len(server.revisions) == 1


def test_one_key_of_two_does_not_freeze(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str, key_file: KeyFile
) -> None:
    second = key_file(two_must_sign(server), "second")
    prepare(cli, good, out)
    assert cli("policy", "sign", out, "--key", key, "--key", second, "--yes").code == 0
    assert cli("policy", "publish", "--envelope", out).code == 0
    result = cli("org", "freeze", "acme", "--key", key)
    assert result.code == 1
    assert "bundles of org/acme: 1 of 2: waiting for" in result.err
    assert len(server.revisions) == 1
    assert cli("org", "freeze", "acme", "--key", key, "--key", second).code == 0


def test_a_policy_that_only_bears_the_id_of_a_freeze_is_frozen_and_comes_back(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    good.write_text(GOOD.replace('"all"', f'"{FREEZE_POLICY_ID}"'))
    sign_and_publish(cli, good, out, key)
    assert cli("org", "unfreeze", "acme", "--key", key).out.startswith("acme is already not frozen")
    frozen = cli("org", "freeze", "acme", "--key", key)
    assert frozen.code == 0, frozen.err
    assert [policy.text for policy in server.revisions[-1].policies] == [FREEZE_POLICY]
    freed = cli("org", "unfreeze", "acme", "--key", key)
    assert freed.code == 0, freed.err
    assert [policy.text for policy in server.revisions[-1].policies] == [good.read_text().strip()]


def test_an_org_for_which_nothing_is_published_is_frozen(
    cli: Run, server: PublishingSimulator, without_keys: None, key: str
) -> None:
    frozen = cli("org", "freeze", "acme", "--key", key, "--output", "json")
    assert frozen.code == 0, frozen.err
    assert json.loads(frozen.out)["changed"] is True
    assert [policy.text for policy in server.revisions[-1].policies] == [FREEZE_POLICY]
    nothing = cli("org", "unfreeze", "acme", "--key", key)
    assert nothing.code == 2
    assert "is anything but a freeze" in nothing.err


def test_a_freeze_that_hosts_dropped_is_signed_anew(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    """The server knows best whether an org is frozen: it names missing keys only if something has to be signed."""
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    server.freeze_is_dropped = True
    again = cli("org", "freeze", "acme", "--key", key)
    assert again.out.startswith("acme is frozen"), again.err
    assert len(server.revisions) == 3


def test_versions_that_the_server_leaves_out_keep_a_freeze(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, tmp_path: Path, key: str
) -> None:
    """Else a server could have an old policy signed anew."""
    sign_and_publish(cli, good, tmp_path / "1.json", key)
    good.write_text(GOOD.replace("permit", "forbid"))
    sign_and_publish(cli, good, tmp_path / "2.json", key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    del server.revisions[1]
    server.revisions[1].details.revision.version = 2
    result = cli("org", "unfreeze", "acme", "--key", key)
    assert result.code == 1
    assert "versions are missing between 1 and 3" in result.err
    assert len(server.revisions) == 2


def test_a_bundle_of_another_scope_does_not_end_a_freeze(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    policies = {policy.id: policy.text for policy in server.revisions[0].policies}
    server.revisions[0].envelope, _ = server.org.bundle_envelope(
        "org/acme/team/red", policies, version=1, signed_by=[server.org.bundle_signer]
    )
    result = cli("org", "unfreeze", "acme", "--key", key)
    assert result.code == 1
    assert "sent a bundle of `org/acme/team/red`" in result.err
    assert len(server.revisions) == 2


def test_a_freeze_that_a_rollback_could_end_is_not_signed(
    cli: Run, server: PublishingSimulator, without_keys: None, good: Path, out: Path, key: str
) -> None:
    sign_and_publish(cli, good, out, key)
    server.prepared_otherwise = {"min_version": 1}
    result = cli("org", "freeze", "acme", "--key", key)
    assert result.code == 1
    assert "lets a rollback go back to version 1, which was not asked for; do not sign it" in result.err
    assert len(server.revisions) == 1


@pytest.mark.parametrize("answer", ["y", "n"])
def test_at_a_terminal_the_end_of_a_freeze_is_asked_about_and_a_freeze_is_not(
    cli: Run,
    server: PublishingSimulator,
    without_keys: None,
    good: Path,
    out: Path,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    sign_and_publish(cli, good, out, key)
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert cli("org", "freeze", "acme", "--key", key).code == 0
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    result = cli("org", "unfreeze", "acme", "--key", key)
    assert "the policies of version 1, issued " in result.err
    assert (result.code, len(server.revisions)) == ((0, 3) if answer == "y" else (1, 2))
