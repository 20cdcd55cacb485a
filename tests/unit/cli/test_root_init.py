"""`akpolicy root init` and `show`: how an org begins, and what it is now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from akpolicy.signing import PrivateKeySigner
from akpolicy.v1 import publishing_pb2 as pb
from tests.simulators.org import OrgSimulator
from tests.unit.cli.root_files import read

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run


def test_an_org_begins_with_root_keys_in_several_hands(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile
) -> None:
    owners = [PrivateKeySigner.generate() for _ in range(3)]
    keys = [option for owner in owners for option in ("--root-key", owner.public_key.anchor)]
    made = cli("root", "init", "--org", "newco", *keys, "--threshold", 2, "--out", out)
    assert made.code == 0, made.err
    assert "root role: 0 of 2: waiting for 2 of" in made.out
    assert all(owner.public_key.key_id in made.err for owner in owners)
    first = cli("root", "sign", out, "--key", key_file(owners[0], "one"), "--yes")
    assert "root role: 1 of 2: waiting for one of" in first.out
    assert "compare its root keys" in first.err
    too_early = cli("root", "publish", out)
    assert too_early.code == 1
    assert server.roots["newco"].envelopes == []
    second = cli("root", "sign", out, "--key", key_file(owners[2], "three"), "--yes", "--output", "json")
    assert json.loads(second.out)["complete"] is True
    published = cli("root", "publish", out)
    assert published.code == 0, published.err
    assert published.out.startswith("published root version 1 of newco\n")
    assert "threshold = 2" in published.err
    assert [envelope.payload for envelope in server.roots["newco"].envelopes] == [read(out).envelope.payload]


def test_a_root_key_that_is_none_never_reaches_the_server(cli: Run, server: PublishingSimulator, out: Path) -> None:
    result = cli("root", "init", "--org", "newco", "--root-key", "age1abc", "--out", out)
    assert result.code == 2
    assert "--root-key: " in result.err
    assert not out.exists()
    assert "newco" not in server.orgs


def test_another_first_root_than_the_one_that_was_asked_for_is_not_written(
    cli: Run, server: PublishingSimulator, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (PrivateKeySigner.generate().public_key.anchor for _ in range(2))
    honest = server._pending

    def exchange(request: Any) -> Any:
        del request.root_keys[:]
        request.root_keys.append(theirs)
        return honest(request)

    monkeypatch.setattr(server, "_pending", exchange)
    result = cli("root", "init", "--org", "newco", "--root-key", mine, "--out", out)
    assert result.code == 1
    assert "do not sign it" in result.err
    assert not out.exists()


def test_a_first_root_that_is_published_is_not_handed_out_again(
    cli: Run, server: PublishingSimulator, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = PrivateKeySigner.generate().public_key.anchor
    answer = pb.CreateOrgResponse(org="newco", trust_anchor=mine, root_version=1)
    monkeypatch.setattr(server, "_pending", lambda _: answer)
    result = cli("root", "init", "--org", "newco", "--root-key", mine, "--out", out)
    assert result.code == 2
    assert "the org `newco` has root version 1 already" in result.err
    assert "`akpolicy root propose`" in result.err
    assert not out.exists()


# --- show -------------------------------------------------------------------------------------------------------------


def test_the_root_is_shown_with_roles_and_keys(cli: Run, server: PublishingSimulator) -> None:
    result = cli("root", "show", "--org", "acme", "--anchor", server.org.anchor)
    assert result.code == 0
    assert result.err == ""
    lines = [line.split() for line in result.out.splitlines()]
    assert ["role", "bundle:org/acme", "1", "of", "1", "must", "sign"] in lines
    assert ["anchor", server.org.anchor] in lines
    key_id = server.org.rollback_signer.public_key.key_id[:12]
    assert [key_id, "rollback:global,", "rollback:org/acme"] in [line[:3] for line in lines]
    assert "not verified" in cli("root", "show", "--org", "acme").err


def test_the_shown_json_has_the_roots_for_inspect(cli: Run, server: PublishingSimulator, tmp_path: Path) -> None:
    result = cli("root", "show", "--org", "acme", "--anchor", server.org.anchor, "--output", "json")
    shown = json.loads(result.out)
    assert shown["verified"] is True
    assert shown["trust_anchors"] == [server.org.anchor]
    assert {key["key_id"] for key in shown["keys"]} >= {server.org.bundle_signer.public_key.key_id}
    chain = tmp_path / "chain.json"
    chain.write_text(result.out)
    inspected = cli("inspect", chain, "--anchor", server.org.anchor)
    assert inspected.code == 0
    assert "it is reached from the anchors" in inspected.out


def test_an_org_without_a_root_is_refused(cli: Run, server: PublishingSimulator, out: Path) -> None:
    missing = cli("root", "show", "--org", "nobody")
    assert missing.code == 1
    assert "(NOT_FOUND)" in missing.err
    cli("root", "init", "--org", "newco", "--root-key", OrgSimulator().anchor, "--out", out)
    pending = cli("root", "show", "--org", "newco")
    assert pending.code == 1
    assert "`akpolicy root init`" in pending.err
