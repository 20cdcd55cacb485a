"""`akpolicy root propose`, `sign` and `publish`: a key ceremony from file to file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.signing import PrivateKeySigner
from tests.simulators.org import OrgSimulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run
from tests.unit.cli.root_files import propose, root_in

# --- the next root ----------------------------------------------------------------------------------------------------


def test_every_change_goes_into_the_next_root(cli: Run, server: PublishingSimulator, out: Path) -> None:
    new, team = (PrivateKeySigner.generate().public_key for _ in range(2))
    heartbeat = server.org.heartbeat_signer.public_key.key_id
    rollback = server.org.rollback_signer.public_key.key_id
    propose(
        cli,
        server,
        out,
        *("--add-key", f"root={new.anchor}", "--threshold", "root=2", "--min-sidecar", "0.0.1", "--new-epoch"),
        *("--add-key", f"bundle:org/acme/team/red={team.anchor}", "--grants", "org/acme/team/red=no"),
        *("--remove-key", f"rollback:global={rollback[:12]}", "--drop-role", "rollback:global"),
        *("--extend-key", heartbeat[:12], "--expires", "30d", "--key-lifetime", "60d"),
    )
    root = root_in(out)
    assert (root.version, root.epoch, root.min_sidecar) == (2, 2, "0.0.1")
    assert root.expires_at - root.issued_at == 30 * 86_400
    assert (root.roles.root.threshold, new.key_id in root.roles.root.keys) == (2, True)
    red = root.bundle_role("org/acme/team/red")
    assert red is not None
    assert (red.keys, red.grants) == ([team.key_id], False)
    assert root.rollback_role("global") is None
    assert root.keys[heartbeat].valid_until == root.issued_at + 60 * 86_400
    assert root.keys[new.key_id].valid_until == root.issued_at + 60 * 86_400


def test_a_new_online_key_stands_beside_the_old_one_or_in_its_place(
    cli: Run, server: PublishingSimulator, out: Path, tmp_path: Path
) -> None:
    old = server.org.bundle_signer.public_key.key_id
    server.org.bundle_signer = PrivateKeySigner.generate()
    new = server.org.bundle_signer.public_key.key_id
    propose(cli, server, out, "--new-online-key", "bundle")
    role = root_in(out).bundle_role("org/acme")
    assert role is not None
    assert role.keys == [old, new]
    other = tmp_path / "other.json"
    propose(cli, server, other, "--new-online-key", "bundle", "--replace", "--revoke", old[:12])
    root = root_in(other)
    assert set(root.revoked) == {old}
    role = root.bundle_role("org/acme")
    assert role is not None
    assert role.keys == [new]
    assert [(request.org, request.role) for request in server.online_keys] == [("acme", 1), ("acme", 1)]


def test_a_key_of_the_platform_is_asked_for_without_an_org(cli: Run, server: PublishingSimulator, out: Path) -> None:
    server.org.platform_signer = PrivateKeySigner.generate()
    propose(cli, server, out, "--new-online-key", "bundle:global", "--replace")
    assert [(request.org, request.role) for request in server.online_keys] == [("", 1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threshold", "root=2"], "role `root` would have 1 of the 2 keys"),
        (["--revoke", "bundle"], "add a key to `bundle:org/acme`"),
        (["--new-online-key", "bundle", "--threshold", "bundle=3"], "role `bundle:org/acme` would have 2 of the 3"),
        (["--add-key", "root"], "must be `--add-key NAME=VALUE`"),
        (["--add-key", "chief=ed25519:x"], "is not a role"),
        (["--add-key", "root=ed25519:x"], "--add-key: "),
        (["--remove-key", "root=abc"], "no key `abc`"),
        (["--threshold", "root=many"], "no number of keys"),
        (["--grants", "org/acme=maybe"], "neither `yes` nor `no`"),
        (["--grants", "org/acme/team/x=no"], "no role `bundle:org/acme/team/x`"),
        (["--replace"], "`--replace` goes with"),
        (["--new-online-key", "root"], "holds no root keys"),
        (["--expires", "soon"], "`--expires soon` is no time"),
    ],
)
def test_a_change_that_cannot_be_made_is_wrong_usage_and_makes_no_key(
    cli: Run, server: PublishingSimulator, out: Path, options: list[str], said: str
) -> None:
    bundle = server.org.bundle_signer.public_key.key_id
    # Only so that the simulator has a key to hand out that the root does not list yet.
    server.org.bundle_signer = PrivateKeySigner.generate()
    options = [bundle if option == "bundle" and options[0] == "--revoke" else option for option in options]
    result = cli("root", "propose", "--org", "acme", "--anchor", server.org.anchor, "--out", out, *options)
    assert result.code == 2
    assert said in result.err
    assert not out.exists()
    assert server.online_keys == []


def test_a_proposal_never_replaces_a_file(cli: Run, server: PublishingSimulator, out: Path) -> None:
    out.write_text("signatures")
    result = cli("root", "propose", "--org", "acme", "--anchor", server.org.anchor, "--out", out)
    assert result.code == 2
    assert "may have signatures" in result.err
    assert out.read_text() == "signatures"


def test_a_proposal_that_could_not_be_written_is_not_asked_for(
    cli: Run, server: PublishingSimulator, tmp_path: Path
) -> None:
    out = tmp_path / "missing" / "r.json"
    result = cli("root", "init", "--org", "newco", "--root-key", OrgSimulator().anchor, "--out", out)
    assert result.code == 2
    assert "is no directory" in result.err
    assert server.orgs == set()


# --- whom to believe --------------------------------------------------------------------------------------------------


def test_whom_to_believe_must_be_said(cli: Run, server: PublishingSimulator, out: Path) -> None:
    neither = cli("root", "propose", "--org", "acme", "--out", out)
    both = cli("root", "propose", "--org", "acme", "--trust-server", "--anchor", server.org.anchor, "--out", out)
    assert (neither.code, both.code) == (2, 2)
    assert "say whom to believe" in neither.err
    assert not out.exists()


def test_the_roots_of_a_server_that_the_anchor_did_not_sign_are_refused(
    cli: Run, server: PublishingSimulator, out: Path
) -> None:
    anchor = PrivateKeySigner.generate().public_key.anchor
    result = cli("root", "propose", "--org", "acme", "--anchor", anchor, "--out", out)
    assert result.code == 1
    assert "signed by 0 of 1 needed trust anchors" in result.err
    assert not out.exists()
    trusting = cli("root", "propose", "--org", "acme", "--trust-server", "--out", out)
    assert trusting.code == 0
    assert "no anchor verified them" in trusting.err


def test_the_newest_root_is_reached_from_the_first_anchor(
    cli: Run, server: PublishingSimulator, out: Path, tmp_path: Path, key_file: KeyFile
) -> None:
    new = PrivateKeySigner.generate()
    anchor, old = server.org.anchor, server.org.root_signer
    propose(
        cli, server, out, "--add-key", f"root={new.public_key.anchor}", "--remove-key", f"root={old.public_key.key_id}"
    )
    cli("root", "sign", out, "--key", key_file(old, "old"), "--key", key_file(new, "new"), "--yes")
    assert cli("root", "publish", out).code == 0
    third = tmp_path / "third.json"
    assert cli("root", "propose", "--org", "acme", "--anchor", anchor, "--out", third).code == 0
    assert root_in(third).roles.root.keys == [new.public_key.key_id]
    # The anchor of hosts that are set up now works too.
    fourth = tmp_path / "fourth.json"
    assert cli("root", "propose", "--org", "acme", "--anchor", new.public_key.anchor, "--out", fourth).code == 0


# --- publishing -------------------------------------------------------------------------------------------------------


def signed(cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile, *options: object) -> None:
    propose(cli, server, out, *options)
    assert cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"), "--yes").code == 0


def test_a_dry_run_says_what_would_be_and_stores_nothing(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile
) -> None:
    signed(cli, server, out, key_file)
    server.dropped = ["global"]
    result = cli("root", "publish", out, "--dry-run")
    assert result.code == 0
    assert result.out == "would publish root version 2 of acme\ndropped      global\n"
    assert "`akpolicy policy publish FILES --scope global`" in result.err
    assert len(server.roots["acme"].envelopes) == 1


def test_what_a_published_root_leads_to_is_said(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile, good: Path
) -> None:
    cli("policy", "publish", good, "--org", "acme")
    signed(cli, server, out, key_file)
    server.dropped = ["org/acme/team/red"]
    answer = json.loads(cli("root", "publish", out, "--output", "json").out)
    [anew] = answer.pop("signed_anew")
    assert (anew["scope"], anew["version"]) == ("org/acme", 1)
    assert answer == {
        "version": 2,
        "repeated_request": False,
        "dropped": ["org/acme/team/red"],
        "org": "acme",
        "dry_run": False,
        "trust_anchors": [server.org.anchor],
    }
    again = cli("root", "publish", out)
    assert again.code == 0
    assert "(it was published before)" in again.out


def test_what_the_server_refuses_for_its_hosts_is_an_error(
    cli: Run, server: PublishingSimulator, out: Path, tmp_path: Path, key_file: KeyFile
) -> None:
    other = tmp_path / "other.json"
    signed(cli, server, out, key_file)
    signed(cli, server, other, key_file, "--expires", "10d")
    assert cli("root", "publish", out).code == 0
    for options in ([], ["--dry-run"]):
        result = cli("root", "publish", other, *options)
        assert result.code == 1
        assert "(FAILED_PRECONDITION)" in result.err


def test_a_bundle_is_no_root(cli: Run, server: PublishingSimulator, out: Path, good: Path) -> None:
    cli("policy", "publish", good, "--org", "acme", "--unsigned", "--out", out)
    for command in (["root", "sign", out, "--key", "file:x"], ["root", "publish", out]):
        result = cli(*command)
        assert result.code == 2
        assert "is the proposal of a bundle" in result.err
