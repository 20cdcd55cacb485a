"""`akpolicy keys`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from akpolicy.keys import parse_anchor

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Run


def test_a_generated_key_is_private_and_shown_by_its_anchor(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    made = json.loads(cli("keys", "generate", "--out", file, "--output", "json").out)
    assert file.stat().st_mode & 0o777 == 0o600
    assert parse_anchor(made["anchor"]).key_id == made["key_id"]
    assert json.loads(cli("keys", "show", file, "--output", "json").out) == made
    assert cli("keys", "show", file).out == f"anchor  {made['anchor']}\nkey id  {made['key_id']}\n"


def test_a_key_is_never_overwritten(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    cli("keys", "generate", "--out", file)
    before = file.read_bytes()
    result = cli("keys", "generate", "--out", file)
    assert result.code == 1
    assert "never overwritten" in result.err
    assert file.read_bytes() == before


def test_a_key_that_others_can_read_is_refused(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    cli("keys", "generate", "--out", file)
    file.chmod(0o644)
    result = cli("keys", "show", file)
    assert result.code == 1
    assert "chmod 600" in result.err


def test_a_key_with_a_passphrase_is_shown_by_its_uri(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, secret = tmp_path / "root.pem", tmp_path / "root.pass"
    secret.touch(mode=0o600)
    secret.write_text("kQ7-not-a-real-one\n")
    made = json.loads(cli("keys", "generate", "--out", file, "--passphrase-file", secret, "-o", "json").out)
    uri = f"file:{file}?passphrase-file={secret}"
    assert json.loads(cli("keys", "show", uri, "-o", "json").out) == {
        "uri": uri,
        "anchor": made["anchor"],
        "key_id": made["key_id"],
    }
    refused = cli("keys", "show", file)
    assert refused.code == 1
    assert "passphrase-file=" in refused.err
    monkeypatch.setenv("ROOT_PASSPHRASE", "kQ7-not-a-real-one")
    other = tmp_path / "other.pem"
    assert cli("keys", "generate", "--out", other, "--passphrase-env", "ROOT_PASSPHRASE").code == 0
    assert cli("keys", "show", f"file:{other}?passphrase-env=ROOT_PASSPHRASE").out.startswith("anchor  ed25519:")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "--out FILE or --pkcs11 URI"),
        (["--out", "a.pem", "--pkcs11", "pkcs11:token=t;object=o"], "--out FILE or --pkcs11 URI"),
        (["--out", "a.pem", "--passphrase-env", "A", "--passphrase-file", "a"], "one passphrase"),
        (["--pkcs11", "pkcs11:token=t;object=o", "--passphrase-env", "PASSPHRASE"], "a PIN and no passphrase"),
    ],
    ids=["nowhere", "two places", "two passphrases", "a passphrase for a token"],
)
def test_options_that_contradict_each_other_are_wrong_usage(
    cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PASSPHRASE", "kQ7-not-a-real-one")
    result = cli("keys", "generate", *options)
    assert (result.code, result.out) == (2, "")
    assert reason in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_colon_can_be_shown(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = cli("keys", "generate", "--out", "a:b.pem").out
    assert cli("keys", "show", "./a:b.pem").out == made
    assert cli("keys", "show", "file:a:b.pem").out == made
    refused = cli("keys", "show", "a:b.pem")
    assert refused.code == 1
    assert "known: `env:`, `file:`, `pkcs11:`" in refused.err


def test_a_token_that_cannot_be_reached_is_one_line(cli: Run) -> None:
    for command in (["show"], ["generate", "--pkcs11"]):
        result = cli("keys", *command, "pkcs11:token=t;object=o?module-path=/nonexistent.so")
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: cannot load the PKCS#11 library: ")
        assert result.err.count("\n") == 1
