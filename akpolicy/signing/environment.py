"""Keys in variables: `env:<name>`.

Rules:

- The variable holds the key in PEM as a key file has it, or the base64 of the 32-byte seed.
- The URI holds the variable's *name*. A key in its place is refused and not repeated.
- For programs that get their secrets this way and no other: what a process's environment holds, its children inherit
  and its core dumps show. A file is better where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import KeyFileError
from akpolicy.signing.key_files import MAX_KEY_FILE_BYTES
from akpolicy.signing.private_keys import PEM_BEGIN, read_pem, read_seed
from akpolicy.signing.secret_sources import read_variable, variable_name
from akpolicy.signing.uris import split_query

if TYPE_CHECKING:
    from akpolicy.signing.signer import PrivateKeySigner


def open_variable(rest: str) -> PrivateKeySigner:
    """Open what `env:` is followed by; say what is wrong without showing any of the value.

    Raises `SignerUnavailable` for the form of the URI, `KeyFileError` for what the variable holds.
    """
    name = variable_name(split_query(rest, known=())[0])
    value = read_variable(name).strip()
    place = f"the variable `{name}`"
    if not value:
        raise KeyFileError(f"{place} is empty; it must hold a key in PEM or the base64 of its seed")
    if len(value) > MAX_KEY_FILE_BYTES:
        raise KeyFileError(f"{place} holds more than {MAX_KEY_FILE_BYTES} characters, which is no key")
    if value.startswith(PEM_BEGIN):
        return read_pem(value.encode("utf-8", "surrogateescape"), None, place)
    return read_seed(value, place)
