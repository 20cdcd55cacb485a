"""`root sign`: what is shown, who is asked, and what is never signed or overwritten."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from akpolicy.proposal import add_signature
from akpolicy.signing import PrivateKeySigner

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.simulators.publishing import PublishingSimulator
    from tests.unit.cli.conftest import KeyFile, Run
from tests.unit.cli.root_files import propose, read


def test_what_is_signed_is_shown_and_the_root_before_is_verified_by_the_key(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile
) -> None:
    new = PrivateKeySigner.generate().public_key
    propose(cli, server, out, "--add-key", f"root={new.anchor}")
    result = cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"), "--yes")
    assert result.code == 0
    assert f"role `root`: + key {new.key_id}" in result.err
    assert "root version 1 of acme, which came with the file, was verified: one of these keys signed it" in result.err
    assert "root role (old): 1 of 1: enough\nroot role (new): 1 of 1: enough" in result.out
    assert f"publish it: akpolicy root publish {out}" in result.err


def test_a_root_before_that_nobody_vouches_for_is_said_to_be_unverified(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile
) -> None:
    new = PrivateKeySigner.generate()
    propose(cli, server, out, "--add-key", f"root={new.public_key.anchor}")
    uri = key_file(new, "new")
    assert "was not verified: none of these keys signed it" in cli("root", "sign", out, "--key", uri, "--yes").err
    with_anchor = cli("root", "sign", out, "--key", uri, "--yes", "--anchor", server.org.anchor)
    assert "was verified: the anchors signed it" in with_anchor.err
    before = out.read_bytes()
    stranger = PrivateKeySigner.generate().public_key.anchor
    refused = cli("root", "sign", out, "--key", uri, "--yes", "--anchor", stranger)
    assert refused.code == 1
    assert out.read_bytes() == before


def test_a_key_that_cannot_count_changes_nothing(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile
) -> None:
    propose(cli, server, out)
    before = out.read_bytes()
    keys = [key_file(server.org.root_signer, "root"), key_file(PrivateKeySigner.generate(), "stranger")]
    result = cli("root", "sign", out, "--key", keys[0], "--key", keys[1], "--yes")
    assert result.code == 1
    assert "cannot sign this" in result.err
    assert out.read_bytes() == before


def test_without_a_key_or_somebody_to_ask_nothing_is_signed(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(cli, server, out)
    before = out.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    no_key = cli("root", "sign", out, "--yes")
    unasked = cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"))
    assert (no_key.code, unasked.code) == (2, 2)
    assert "--key URI" in no_key.err
    assert "give `--yes`" in unasked.err
    assert out.read_bytes() == before


class Person(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "signatures"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_a_person_is_asked(
    cli: Run,
    server: PublishingSimulator,
    out: Path,
    key_file: KeyFile,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    signatures: int,
) -> None:
    propose(cli, server, out)
    monkeypatch.setattr(sys, "stdin", Person(answer))
    result = cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"))
    assert result.code == code
    assert "Sign this?" in result.err
    assert len(read(out).envelope.signatures) == signatures


def agree_after(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let a person agree after something else has happened."""

    def confirm(*_: object, **__: object) -> bool:
        happens()
        return True

    monkeypatch.setattr(sys, "stdin", Person())
    monkeypatch.setattr("typer.confirm", confirm)


def test_signatures_that_others_add_meanwhile_are_kept(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = PrivateKeySigner.generate()
    propose(cli, server, out, "--add-key", f"root={new.public_key.anchor}", "--threshold", "root=2")

    def sign_meanwhile() -> None:
        out.write_bytes(add_signature(read(out), new).to_bytes())

    agree_after(monkeypatch, sign_meanwhile)
    result = cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"))
    assert result.code == 0, result.err
    assert "root role (new): 2 of 2: enough" in result.out
    assert len(read(out).envelope.signatures) == 2


def test_another_document_in_its_place_is_left_alone(
    cli: Run, server: PublishingSimulator, out: Path, tmp_path: Path, key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    propose(cli, server, other, "--expires", "10d")
    propose(cli, server, out)
    agree_after(monkeypatch, lambda: out.write_bytes(other.read_bytes()))
    result = cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"))
    assert result.code == 1
    assert "is not the same root of acme, version 2" in result.err
    assert read(out).envelope.signatures == ()


def test_a_linked_file_is_signed_where_it_lies(
    cli: Run, server: PublishingSimulator, out: Path, tmp_path: Path, key_file: KeyFile
) -> None:
    propose(cli, server, out)
    link = tmp_path / "link.json"
    link.symlink_to(out)
    assert cli("root", "sign", link, "--key", key_file(server.org.root_signer, "root"), "--yes").code == 0
    assert link.is_symlink()
    assert len(read(out).envelope.signatures) == 1


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_whoever_could_read_a_proposal_still_can_when_it_is_signed(
    cli: Run, server: PublishingSimulator, out: Path, key_file: KeyFile, mode: int
) -> None:
    propose(cli, server, out)
    out.chmod(mode)
    assert cli("root", "sign", out, "--key", key_file(server.org.root_signer, "root"), "--yes").code == 0
    assert out.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"format": "akpolicy/proposal/v1"}'])
def test_what_is_no_proposal_is_refused(cli: Run, server: PublishingSimulator, out: Path, text: str) -> None:
    out.write_text(text)
    for command in (["root", "sign", out, "--key", "file:x"], ["root", "publish", out], ["policy", "sign", out]):
        result = cli(*command)
        assert result.code in (1, 2)
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
