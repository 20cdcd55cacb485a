"""Keys in files: `file:<path>`.

Rules:

- A key file is PKCS#8 PEM (RFC 8410), 0600, ours, no link: a file that others can read, a link, or a file of another
  user is refused, not repaired.
- It is created with O_EXCL: an existing key is never overwritten.
- It may be protected by a passphrase, which comes from a variable or a file: `file:<path>?passphrase-env=<variable>` or
  `file:<path>?passphrase-file=<path>`. The library's key derivation is quick (PBKDF2, 2,048 rounds): a new passphrase
  must be long, and should be random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from akpolicy.durable import read_private_file, write_new_file
from akpolicy.errors import CacheError, KeyFileError, SignerUnavailable
from akpolicy.signing.private_keys import read_pem
from akpolicy.signing.secret_sources import SecretSource
from akpolicy.signing.signer import PrivateKeySigner
from akpolicy.signing.uris import decoded_text, encoded_path, file_path, split_query

MAX_KEY_FILE_BYTES: Final = 16 * 1024
MIN_PASSPHRASE_BYTES: Final = 16

_FROM_VARIABLE: Final = "passphrase-env"
_FROM_FILE: Final = "passphrase-file"


def create_key_file(path: Path, passphrase: bytes | None = None) -> PrivateKeySigner:
    """Make a key and write it to a new file (0600), encrypted if there is a passphrase.

    Raises `KeyFileError` if the file exists or cannot be written, or if the passphrase is short.
    """
    if passphrase is not None and len(passphrase) < MIN_PASSPHRASE_BYTES:
        raise KeyFileError(
            f"the passphrase has fewer than {MIN_PASSPHRASE_BYTES} bytes; make one with `openssl rand -base64 24`"
        )
    signer = PrivateKeySigner.generate()
    try:
        write_new_file(path, signer.to_pem(passphrase))
    except FileExistsError:
        raise KeyFileError(
            f"`{path}` exists; a key is never overwritten: choose another path or move the old key away"
        ) from None
    except OSError as error:
        raise KeyFileError(f"cannot write the key `{path}`: {error.strerror}") from error
    return signer


def load_key_file(path: Path, passphrase: bytes | None = None) -> PrivateKeySigner:
    """Read a key file; raise `KeyFileError` saying what is wrong with it."""
    try:
        pem = read_private_file(path, max_bytes=MAX_KEY_FILE_BYTES)
    except CacheError as error:
        raise KeyFileError(f"cannot use the key `{path}`: {error.message}") from error
    return read_pem(pem, passphrase, f"`{path}`")


def open_key_file(rest: str) -> PrivateKeySigner:
    """Open what `file:` is followed by; raise `SignerUnavailable` for its form and `KeyFileError` for what it names."""
    path, query = split_query(rest, known=(_FROM_VARIABLE, _FROM_FILE))
    source = _passphrase_source(query)
    return load_key_file(Path(file_path(path, "a key file's URI")), None if source is None else source.read())


def key_file_uri(path: Path) -> str:
    """Return the URI of a key file that needs no passphrase."""
    return f"file:{encoded_path(str(path))}"


def _passphrase_source(query: dict[str, str]) -> SecretSource | None:
    if len(query) > 1:
        raise SignerUnavailable(f"a key has one passphrase: write `{_FROM_VARIABLE}=` or `{_FROM_FILE}=`")
    if _FROM_VARIABLE in query:
        return SecretSource.env(query[_FROM_VARIABLE])
    if _FROM_FILE in query:
        return SecretSource.file(decoded_text(query[_FROM_FILE], f"`{_FROM_FILE}`"))
    return None
