"""`akpolicy root rotate` and `revoke`: a whole change of keys in one command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.proposal import parse_proposal
from akpolicy.root import Root, parse_root
from akpolicy.signing import PrivateKeySigner, load_key_file, open_signer
from tests.unit.cli.conftest import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from akpolicy.signing import Signer
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
    anchor = load_key_file(tmp_path / "new.pem").public_key.anchor
    assert json.loads(again.out) == {
        "org": "acme",
        "version": 2,
        "repeated_request": True,
        "trust_anchors": [anchor],
    }
    assert anchor in cli(*command).err
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


def test_a_rotation_that_is_repeated_with_revoke_revokes_the_old_key(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path
) -> None:
    command = ("root", "rotate", "--org", "acme", "--key", old, "--new-key-file", tmp_path / "new.pem")
    assert cli(*command).code == 0
    late = cli(*command, "--revoke")
    assert late.code == 0, late.err
    assert late.out.startswith("published root version 3 of acme\n")
    assert set(newest(server).revoked) == {server.org.root_signer.public_key.key_id}
    assert cli(*command, "--revoke").out.endswith("is the root key of acme already; nothing was changed\n")
    assert len(server.roots["acme"].envelopes) == 3


def test_a_rotation_that_is_repeated_revokes_no_key_of_another_role(
    cli: Run, server: PublishingSimulator, old: str, key_file: KeyFile
) -> None:
    bundle = key_file(server.org.bundle_signer, "bundle")
    wrong = ("root", "rotate", "--org", "acme", "--key", bundle, "--new-key", old, "--anchor", server.org.anchor)
    refused = cli(*wrong, "--revoke")
    assert refused.code == 1
    assert "is not the root key of `acme`" in refused.err
    assert len(server.roots["acme"].envelopes) == 1


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


def test_a_root_that_a_server_lost_is_published_again_from_what_root_show_said(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path
) -> None:
    """As the page on keys has it, for a server that is put back from a backup of before the rotation."""
    assert cli("root", "rotate", "--org", "acme", "--key", old, "--new-key-file", tmp_path / "new.pem").code == 0
    chain = json.loads(cli("root", "show", "--org", "acme", "--output", "json").out)["chain"]
    lost = server.roots["acme"].envelopes[-1]
    server.__exit__()
    server.__enter__()
    assert len(server.roots["acme"].envelopes) == 1
    file = tmp_path / "acme-root-2.json"
    file.write_text(json.dumps({"format": "akpolicy/proposal/v1", "envelope": chain[1], "root": chain[0]}, indent=2))
    published = cli("root", "publish", file, "--server", server.url)
    assert published.code == 0, published.err
    assert server.roots["acme"].envelopes[-1] == lost


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


def test_repeating_a_revocation_says_that_nothing_is_left_to_do(
    cli: Run, server: PublishingSimulator, old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = server.org.bundle_signer.public_key.key_id
    server.org.bundle_signer = PrivateKeySigner.generate()
    command = ("root", "revoke", "--org", "acme", leaked, "--key", old, "--replace", "--new-epoch")
    assert cli(*command).code == 0
    # What would be written if the keys were too few does not stand in the way.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme-root-3.json").touch()
    again = cli(*command)
    assert again.code == 0, again.err
    assert f"the key {leaked} of acme is revoked already, since " in again.out
    assert "nothing is left to do" in again.out
    assert "epoch 2; if versions ran ahead in that one" in again.err
    answer = json.loads(cli(*command, "--output", "json").out)
    assert answer == {"org": "acme", "version": 2, "key_id": leaked, "repeated_request": True}
    assert (len(server.roots["acme"].envelopes), len(server.online_keys)) == (2, 1)


# --- what is shown ----------------------------------------------------------------------------------------------------


class Watched:
    """A signer that notes what standard error had when it was used."""

    def __init__(self, signer: Signer, shown: Callable[[], str]) -> None:
        self._signer = signer
        self._shown = shown
        self.public_key = signer.public_key
        self.before = ""

    def sign(self, message: bytes) -> bytes:
        self.before = self._shown()
        return self._signer.sign(message)

    def close(self) -> None:
        self._signer.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[Watched]:
    """Return the signers that commands open."""
    opened: list[Watched] = []
    said: list[str] = []

    def shown() -> str:
        said.append(capsys.readouterr().err)
        return "".join(said)

    def opening(uri: str) -> Watched:
        opened.append(Watched(open_signer(uri), shown))
        return opened[-1]

    monkeypatch.setattr("akpolicy.signing.open_signer", opening)
    return opened


def test_what_a_revocation_changes_is_shown_before_a_key_is_used(
    cli: Run, server: PublishingSimulator, old: str, watched: list[Watched]
) -> None:
    leaked = server.org.bundle_signer.public_key.key_id
    server.org.bundle_signer = PrivateKeySigner.generate()
    assert cli("root", "revoke", "--org", "acme", leaked, "--key", old, "--replace").code == 0
    [signer] = watched
    for line in (
        "root of acme, version 2",
        f"role `bundle:org/acme`: + key {server.org.bundle_signer.public_key.key_id}",
        f"role `bundle:org/acme`: - key {leaked[:12]}",
        f"revoked for good: key {leaked}",
    ):
        assert line in signer.before


def test_what_a_rotation_changes_is_shown_before_a_key_is_used(
    cli: Run, server: PublishingSimulator, old: str, key_file: KeyFile, watched: list[Watched]
) -> None:
    new = PrivateKeySigner.generate()
    assert cli("root", "rotate", "--org", "acme", "--key", old, "--new-key", key_file(new, "new")).code == 0
    assert len(watched) == 2
    for signer in watched:
        assert f"role `root`: + key {new.public_key.key_id}" in signer.before
        assert f"role `root`: - key {server.org.root_signer.public_key.key_id[:12]}" in signer.before


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_at_a_terminal_is_asked(
    cli: Run,
    server: PublishingSimulator,
    old: str,
    key_file: KeyFile,
    monkeypatch: pytest.MonkeyPatch,
    watched: list[Watched],
    answer: str,
) -> None:
    command = ("root", "rotate", "--org", "acme", "--key", old, "--new-key", key_file(PrivateKeySigner.generate(), "n"))
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    result = cli(*command)
    assert (result.code, len(server.roots["acme"].envelopes)) == ((0, 2) if answer == "y" else (1, 1))
    assert all(bool(signer.before) == (answer == "y") for signer in watched)
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert cli(*command, "--yes").code == 0
