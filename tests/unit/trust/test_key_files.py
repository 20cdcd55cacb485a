"""Private keys in files: made once, read only if nobody else could have."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from akpolicy.durable import private_directory, write_atomic
from akpolicy.errors import KeyFileError
from akpolicy.signing import MAX_KEY_FILE_BYTES, PrivateKeySigner, create_key_file, load_key_file, open_signer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    private_directory(path)
    return path


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
        (b"", "not an unencrypted private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not an unencrypted private key"),
        (PrivateKeySigner.generate().to_pem()[:-40], "not an unencrypted private key"),
        (bytes(MAX_KEY_FILE_BYTES + 1), "cannot use"),
    ],
    ids=["empty", "no key", "cut off", "oversize"],
)
def test_what_is_no_key_file_is_refused(directory: Path, content: bytes, reason: str) -> None:
    path = directory / "key.pem"
    write_atomic(path, content)
    with pytest.raises(KeyFileError, match=reason):
        load_key_file(path)


def test_a_key_that_others_can_read_is_refused_and_not_repaired(directory: Path) -> None:
    path = directory / "key.pem"
    create_key_file(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="0644"):
        load_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("uri", ["", "key.pem", "pkcs11:token", "env:KEY", "FILE:/x"])
def test_an_unknown_kind_of_signer_is_refused(uri: str) -> None:
    with pytest.raises(KeyFileError, match="file:"):
        open_signer(uri)
