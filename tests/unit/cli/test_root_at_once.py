"""`akpolicy root rotate` and `revoke`: a whole change of keys in one command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.proposal import parse_proposal
from akpolicy.root import Root, parse_root
from akpolicy.signing import PrivateKeySigner, load_key_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run


@pytest.fixture
def old(server: PublishingSimulator, key_file: KeyFile) -> str:
    """The root key of acme, as a signer URI."""
    return key_file(server.org.root_signer, "old")


def newest(server: PublishingSimulator) -> Root:
    return parse_root(server.roots["acme"].envelopes[-1].payload)[0]


def with_two_root_keys(cli: Run, server: PublishingSimulator, old: str, tmp_path: Path, key_file: KeyFile) -> str:
    """Let two root keys have to sign; return the second one's URI."""
    second = PrivateKeySigner.generate()
    uri, out = key_file(second, "second"), tmp_path / "two.json"
    options = ("--add-key", f"root={second.public_key.anchor}", "--threshold", "root=2", "--out", out)
    assert cli("root", "propose", "--org", "acme", "--anchor", server.org.anchor, *options).code == 0
    assert cli("root", "sign", out, "--key", old, "--key", uri, "--yes").code == 0
    assert cli("root", "publish", out).code == 0
    return uri


# --- rotate -----------------------------------------------------------------------------------------------------------


def test_the_root_key_is_replaced_by_one_that_is_made(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path
) -> None:
    file = tmp_path / "new.pem"
    result = cli("root", "rotate", "--org", "acme", "--key", old, "--new-key-file", file)
    assert result.code == 0, result.err
    assert result.out.startswith("published root version 2 of acme\n")
    new = load_key_file(file).public_key
    assert file.stat().st_mode & 0o777 == 0o600
    assert newest(server).roles.root.keys == [new.key_id]
    assert newest(server).revoked == {}
    assert f'keys = ["{new.anchor}"]' in result.err
    assert "keep it off the server" in result.err


def test_repeating_a_rotation_changes_nothing(cli: Run, server: PublishingSimulator, old: str, tmp_path: Path) -> None:
    command = ("root", "rotate", "--org", "acme", "--key", old, "--new-key-file", tmp_path / "new.pem")
    assert cli(*command).code == 0
    again = cli(*command, "--output", "json")
    assert again.code == 0
    assert json.loads(again.out) == {"org": "acme", "version": 2, "repeated_request": True}
    assert len(server.roots["acme"].envelopes) == 2


def test_a_leaked_root_key_is_revoked_with_its_rotation(
    cli: Run, server: PublishingSimulator, old: str, key_file: KeyFile
) -> None:
    new = PrivateKeySigner.generate()
    result = cli("root", "rotate", "--org", "acme", "--key", old, "--new-key", key_file(new, "new"), "--revoke")
    assert result.code == 0, result.err
    assert set(newest(server).revoked) == {server.org.root_signer.public_key.key_id}
    assert "replace the anchor on every host now" in result.err


def test_a_key_that_is_not_the_root_key_makes_no_other_key(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path, key_file: KeyFile
) -> None:
    file = tmp_path / "new.pem"
    stranger = key_file(PrivateKeySigner.generate(), "stranger")
    unanchored = cli("root", "rotate", "--org", "acme", "--key", stranger, "--new-key-file", file)
    assert unanchored.code == 1
    wrong = ("root", "rotate", "--org", "acme", "--key", stranger, "--anchor", server.org.anchor)
    refused = cli(*wrong, "--new-key-file", file)
    assert refused.code == 1
    assert "is not the root key of `acme`" in refused.err
    assert not file.exists()


@pytest.mark.parametrize("options", [[], ["--new-key", "file:a", "--new-key-file", "b"]])
def test_one_new_key_must_be_named(cli: Run, server: PublishingSimulator, old: str, options: list[str]) -> None:
    result = cli("root", "rotate", "--org", "acme", "--key", old, *options)
    assert result.code == 2
    assert "name the new root key" in result.err


def test_the_old_key_is_no_new_one(cli: Run, server: PublishingSimulator, old: str) -> None:
    result = cli("root", "rotate", "--org", "acme", "--key", old, "--new-key", old)
    assert result.code == 2
    assert "the new root key is the old one" in result.err


def test_several_root_keys_are_not_rotated_at_once(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path, key_file: KeyFile
) -> None:
    with_two_root_keys(cli, server, old, tmp_path, key_file)
    file = tmp_path / "new.pem"
    result = cli("root", "rotate", "--org", "acme", "--key", old, "--new-key-file", file)
    assert result.code == 2
    assert "`akpolicy root propose --add-key" in result.err
    assert not file.exists()


# --- revoke -----------------------------------------------------------------------------------------------------------


def test_a_leaked_online_key_is_replaced_in_one_command(cli: Run, server: PublishingSimulator, old: str) -> None:
    leaked = server.org.bundle_signer.public_key.key_id
    server.org.bundle_signer = PrivateKeySigner.generate()
    result = cli("root", "revoke", "--org", "acme", leaked[:12], "--key", old, "--replace", "--new-epoch")
    assert result.code == 0, result.err
    root = newest(server)
    assert (set(root.revoked), root.epoch) == ({leaked}, 2)
    role = root.bundle_role("org/acme")
    assert role is not None
    assert role.keys == [server.org.bundle_signer.public_key.key_id]
    assert f"revoked for good: key {leaked}" in result.err


def test_a_key_of_several_roles_is_replaced_in_each(cli: Run, server: PublishingSimulator, old: str) -> None:
    leaked = server.org.rollback_signer.public_key.key_id
    server.org.rollback_signer = PrivateKeySigner.generate()
    result = cli("root", "revoke", "--org", "acme", leaked, "--key", old, "--replace")
    assert result.code == 0, result.err
    # The simulator has one rollback key for both; a server makes the platform's and the org's.
    assert sorted(request.org for request in server.online_keys) == ["", "acme"]


def test_a_key_that_a_role_cannot_do_without_is_not_revoked(cli: Run, server: PublishingSimulator, old: str) -> None:
    result = cli("root", "revoke", "--org", "acme", server.org.heartbeat_signer.public_key.key_id, "--key", old)
    assert result.code == 2
    assert "the role `heartbeat` would have 0 of the 1 keys that must sign; add a key" in result.err
    assert "with `--replace` the server makes a new key" in result.err
    assert len(server.roots["acme"].envelopes) == 1


def test_the_server_cannot_replace_a_root_key(cli: Run, server: PublishingSimulator, old: str) -> None:
    result = cli("root", "revoke", "--org", "acme", server.org.root_signer.public_key.key_id, "--key", old, "--replace")
    assert result.code == 2
    assert "`akpolicy root rotate --revoke`" in result.err
    assert server.online_keys == []


def test_too_few_root_keys_lead_to_a_proposal_and_say_so(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = with_two_root_keys(cli, server, old, tmp_path, key_file)
    leaked = server.org.heartbeat_signer.public_key.key_id
    server.org.heartbeat_signer = PrivateKeySigner.generate()
    monkeypatch.chdir(tmp_path)
    command = ("root", "revoke", "--org", "acme", leaked, "--key", old, "--replace")
    result = cli(*command)
    assert result.code == 0, result.err
    assert "the key is not revoked yet" in result.err
    assert "root role (old): 1 of 2: waiting for" in result.out
    assert len(server.roots["acme"].envelopes) == 2
    file = tmp_path / "acme-root-3.json"
    assert len(parse_proposal(file.read_bytes()).envelope.signatures) == 1
    assert cli(*command).code == 2
    assert cli("root", "sign", file, "--key", second, "--yes").code == 0
    assert cli("root", "publish", file).code == 0
    assert set(newest(server).revoked) == {leaked}


def test_a_key_that_the_root_does_not_list_is_revoked_by_its_whole_id(
    cli: Run, server: PublishingSimulator, old: str
) -> None:
    key_id = PrivateKeySigner.generate().public_key.key_id
    short = cli("root", "revoke", "--org", "acme", key_id[:20], "--key", old)
    assert short.code == 2
    assert "no key" in short.err
    assert cli("root", "revoke", "--org", "acme", key_id, "--key", old).code == 0
    again = cli("root", "revoke", "--org", "acme", key_id, "--key", old)
    assert again.code == 2
    assert "revoked already" in again.err
