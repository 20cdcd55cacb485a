"""Private keys in files: made once, read only if nobody else could have, opened by URI."""

from __future__ import annotations

import stat
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from akpolicy.durable import private_directory, write_atomic
from akpolicy.errors import KeyFileError, SignerUnavailable
from akpolicy.signing import (
    MAX_KEY_FILE_BYTES,
    MIN_PASSPHRASE_BYTES,
    PrivateKeySigner,
    create_key_file,
    key_file_uri,
    load_key_file,
    open_signer,
)
from akpolicy.signing.secret_sources import MAX_SECRET_BYTES
from tests.unit.signing.opening import refusal, signs

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE: Final = "kQ7-not-a-real-one"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    private_directory(path)
    return path


@pytest.fixture
def protected(directory: Path) -> Path:
    path = directory / "protected.pem"
    create_key_file(path, PASSPHRASE.encode())
    return path


def write_secret(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_key_file_is_made_once_and_read_again(directory: Path) -> None:
    path = directory / "root.pem"
    signer = create_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key_file(path).public_key == signer.public_key
    assert open_signer(f"file:{path}").public_key == signer.public_key
    with pytest.raises(KeyFileError, match="never overwritten"):
        create_key_file(path)
    assert load_key_file(path).public_key == signer.public_key


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a private key in PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key in PEM"),
        (PrivateKeySigner.generate().to_pem()[:-40], "not a private key in PEM"),
        (bytes(MAX_KEY_FILE_BYTES + 1), "cannot use"),
    ],
    ids=["empty", "no key", "cut off", "oversize"],
)
def test_what_is_no_key_file_is_refused(directory: Path, content: bytes, reason: str) -> None:
    path = directory / "key.pem"
    write_atomic(path, content)
    with pytest.raises(KeyFileError, match=reason):
        load_key_file(path)


def test_a_key_of_another_kind_is_refused(directory: Path) -> None:
    path = directory / "key.pem"
    write_atomic(
        path,
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    assert "is not an Ed25519 key" in refusal(f"file:{path}", KeyFileError)


def test_a_key_that_others_can_read_is_refused_and_not_repaired(directory: Path) -> None:
    path = directory / "key.pem"
    create_key_file(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="0644"):
        load_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_link_to_a_key_is_refused(directory: Path) -> None:
    create_key_file(directory / "key.pem")
    (directory / "link.pem").symlink_to("key.pem")
    assert "symbolic link" in refusal(f"file:{directory}/link.pem", KeyFileError)


# --- passphrases ------------------------------------------------------------------------------------------------------


def test_a_protected_key_opens_with_its_passphrase_alone(protected: Path) -> None:
    assert b"ENCRYPTED" in protected.read_bytes()
    assert signs(load_key_file(protected, PASSPHRASE.encode()))
    with pytest.raises(KeyFileError, match="is protected by a passphrase"):
        load_key_file(protected)
    with pytest.raises(KeyFileError, match="does not open"):
        load_key_file(protected, b"another")


@pytest.mark.needs_program("openssl")
def test_openssl_opens_a_protected_key(protected: Path) -> None:
    command = ["openssl", "pkey", "-in", str(protected), "-passin", "stdin", "-pubout", "-outform", "DER"]
    done = subprocess.run(command, input=f"{PASSPHRASE}\n".encode(), capture_output=True, check=True, timeout=60)
    assert done.stdout.endswith(load_key_file(protected, PASSPHRASE.encode()).public_key.raw)


def test_a_passphrase_comes_from_a_variable_or_from_a_file(
    protected: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_PASSPHRASE", PASSPHRASE)
    assert signs(open_signer(f"file:{protected}?passphrase-env=KEY_PASSPHRASE"))
    for end in ("", "\n", "\r\n"):
        secret = write_secret(directory / "a%secret", f"{PASSPHRASE}{end}".encode())
        assert signs(open_signer(f"file:{protected}?passphrase-file={directory}/a%25secret"))
        secret.unlink()


def test_a_passphrase_for_a_key_in_the_clear_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key_file(directory / "key.pem")
    monkeypatch.setenv("KEY_PASSPHRASE", PASSPHRASE)
    said = refusal(f"file:{directory}/key.pem?passphrase-env=KEY_PASSPHRASE", KeyFileError)
    assert "is not protected by a passphrase" in said


def test_a_damaged_protected_key_is_refused(protected: Path) -> None:
    protected.write_bytes(protected.read_bytes()[:100])
    with pytest.raises(KeyFileError, match="or the key is damaged"):
        load_key_file(protected, PASSPHRASE.encode())


def test_a_short_passphrase_is_refused_when_a_key_is_made(directory: Path) -> None:
    path = directory / "key.pem"
    with pytest.raises(KeyFileError, match="fewer than 16"):
        create_key_file(path, b"x" * (MIN_PASSPHRASE_BYTES - 1))
    assert not path.exists()
    create_key_file(path, b"x" * MIN_PASSPHRASE_BYTES)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"", 0o600, "is empty"),
        (b"\n", 0o600, "is empty"),
        (f"{PASSPHRASE}\nsecond line\n".encode(), 0o600, "more than one line"),
        (b"x\x00y", 0o600, "more than one line"),
        (b"x" * (MAX_SECRET_BYTES + 1), 0o600, "more than 512 bytes"),
        (b"x" * (MAX_SECRET_BYTES + 3), 0o600, "more than 514"),
        (PASSPHRASE.encode(), 0o640, "others must have no access"),
    ],
    ids=["empty", "empty line", "two lines", "binary", "long", "longer", "readable by others"],
)
def test_a_passphrase_file_that_is_none_is_refused(
    protected: Path, directory: Path, content: bytes, mode: int, reason: str
) -> None:
    secret = write_secret(directory / "secret", content)
    secret.chmod(mode)
    said = refusal(f"file:{protected}?passphrase-file={secret}", KeyFileError)
    assert reason in said
    assert PASSPHRASE not in said


def test_a_variable_without_a_passphrase_is_refused(protected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"file:{protected}?passphrase-env=KEY_PASSPHRASE"
    monkeypatch.delenv("KEY_PASSPHRASE", raising=False)
    assert "is not set" in refusal(uri, KeyFileError)
    monkeypatch.setenv("KEY_PASSPHRASE", "")
    assert "is empty" in refusal(uri, KeyFileError)
    monkeypatch.setenv("KEY_PASSPHRASE", "Jd8-another-one")
    said = refusal(uri, KeyFileError)
    assert "does not open" in said
    assert "Jd8" not in said


# --- URIs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b.pem", "50%.pem", "what?.pem", "a&b=c;d#e.pem", "%41.pem", "ключ.pem", "a:b.pem"])
def test_any_path_can_be_written_as_a_uri(directory: Path, name: str) -> None:
    made = create_key_file(directory / name)
    assert open_signer(key_file_uri(directory / name)).public_key == made.public_key


def test_the_usual_forms_of_a_file_uri_name_the_same_file(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_key_file(directory / "key.pem")
    monkeypatch.chdir(directory)
    for uri in (f"file:{directory}/key.pem", f"file://{directory}/key.pem", "file:key.pem", "file:./k%65y.pem"):
        assert open_signer(uri).public_key == made.public_key
    assert open_signer(key_file_uri(directory / ".." / "keys" / "key.pem")).public_key == made.public_key


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:", "has no path"),
        ("file:?passphrase-env=NAME", "has no path"),
        ("file://host/key.pem", "names the machine `host`"),
        ("file://host", "names the machine `host`"),
        ("file:/50%.pem", "is written `%25`"),
        ("file:/a%00b", "NUL"),
        ("file:/a%FFb", "not UTF-8"),
        ("file:/k?passphrase=hunter2", "allowed: `passphrase-env=`, `passphrase-file=`"),
        ("file:/k?passphrase-env", "has no value"),
        ("file:/k?passphrase-env=", "has no value"),
        ("file:/k?", "not known here"),
        ("file:/k?passphrase-env=A&passphrase-file=/b", "one passphrase"),
        ("file:/k?passphrase-env=A&passphrase-env=A", "twice"),
        ("file:/k?passphrase-env=not-a-name", "*name* of a variable"),
        ("file:/k?passphrase-file=/50%", "is written `%25`"),
        (f"file:/{'k' * 5000}", "at most 4096 characters"),
    ],
)
def test_a_file_uri_that_says_nothing_usable_is_refused(uri: str, reason: str) -> None:
    said = refusal(uri, SignerUnavailable)
    assert reason in said
    assert "hunter2" not in said


def test_a_missing_key_file_is_named(directory: Path) -> None:
    assert f"`{directory}/none.pem` is not there" in refusal(f"file:{directory}/none.pem", KeyFileError)
