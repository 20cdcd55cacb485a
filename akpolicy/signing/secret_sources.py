"""Where a passphrase or a PIN is: in a variable or in a file, never in a URI and never in an option.

Rules:

- A file must be ours alone, as key files are: 0600, no link. It holds one line, whose end is not part of the secret.
- Messages name the place and say what is wrong with the secret. They never show it, nor its length.

A secret that cannot be read is a `KeyFileError`; what can be no variable's name is a `SignerUnavailable`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from akpolicy.durable import read_private_file
from akpolicy.errors import CacheError, KeyFileError, SignerUnavailable

MAX_SECRET_BYTES: Final = 512
MAX_VARIABLE_CHARS: Final = 40
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SecretSource:
    """The place of a secret. `str()` names it."""

    kind: Literal["env", "file"]
    name: str

    @classmethod
    def env(cls, name: str) -> SecretSource:
        """Return the source that is the variable `name`; raise `SignerUnavailable` if that can be none."""
        return cls("env", variable_name(name))

    @classmethod
    def file(cls, path: Path | str) -> SecretSource:
        """Return the source that is a file."""
        return cls("file", str(path))

    def __str__(self) -> str:
        return f"the variable `{self.name}`" if self.kind == "env" else f"the file `{self.name}`"

    def read(self) -> bytes:
        """Return the secret; raise `KeyFileError`."""
        secret = self._line_of_file() if self.kind == "file" else os.fsencode(read_variable(self.name))
        if not secret:
            raise KeyFileError(f"{self} is empty; it must hold the secret")
        if len(secret) > MAX_SECRET_BYTES:
            raise KeyFileError(f"{self} holds more than {MAX_SECRET_BYTES} bytes, which is no passphrase or PIN")
        return secret

    def _line_of_file(self) -> bytes:
        try:
            # One more than fits, and the line's end.
            content = read_private_file(Path(self.name), max_bytes=MAX_SECRET_BYTES + 2)
        except CacheError as error:
            raise KeyFileError(f"cannot read a secret from {self}: {error.message}") from error
        line = content.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" in line or b"\x00" in line:
            raise KeyFileError(f"{self} holds more than one line of text; a secret is one line")
        return line


def variable_name(name: str) -> str:
    """Return `name` if it can be a variable's; raise `SignerUnavailable`, not showing what may be a secret itself."""
    if _VARIABLE.fullmatch(name) is None or len(name) > MAX_VARIABLE_CHARS:
        raise SignerUnavailable(
            f"the *name* of a variable belongs here: letters, digits and `_`, at most {MAX_VARIABLE_CHARS}; "
            "a key or a secret itself never does"
        )
    return name


def read_variable(name: str) -> str:
    """Return a variable's value; raise `KeyFileError` if it is not set."""
    value = os.environ.get(name)
    if value is None:
        raise KeyFileError(f"the variable `{name}` is not set")
    return value
