"""`pkcs11:` URIs: the part of RFC 7512 that names one private key of one token.

Rules:

- Before `?`, joined by `;`: `token` (its label) or `serial` or both, and `object` (the key's label) or `id` or both.
- After `?`, joined by `&`: `module-path`, the absolute path of the token's PKCS#11 library, and `pin-source`, which is
  `env:<variable>` or `file:<path>`. Without `module-path` the variable PKCS11_MODULE holds it. There is no default: a
  library runs with this process's rights, so somebody has to name it.
- A PIN in the URI (`pin-value`) is refused, and so is every attribute that would not be honoured.

A URI that says nothing usable is a `SignerUnavailable`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from akpolicy.errors import SignerUnavailable
from akpolicy.signing.secret_sources import SecretSource
from akpolicy.signing.uris import decoded_bytes, decoded_text, file_path, parameters, split_scheme
from akpolicy.strict_json import shown

MODULE_VARIABLE: Final = "PKCS11_MODULE"
PIN_SOURCE_HINT: Final = "pin-source=file:<path> or pin-source=env:<variable>"
# CKA_ID has no limit of its own; tokens and tools take far less.
MAX_ID_BYTES: Final = 64

_MODULE: Final = "module-path"
_PIN_SOURCE: Final = "pin-source"
_PIN_VALUE: Final = "pin-value"


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """Which key of which token, through which library. `str()` says it for messages."""

    module: Path
    token: str | None
    serial: str | None
    label: str | None
    key_id: bytes | None
    pin_source: SecretSource | None

    @classmethod
    def parse(cls, uri: str) -> Pkcs11Uri:
        """Read a URI; raise `SignerUnavailable` saying what to write."""
        path, _, query = split_scheme(uri)[1].partition("?")
        given = parameters(path, ";", known=("token", "serial", "object", "id")) if path else {}
        key_id = given.pop("id", None)
        texts = {name: decoded_text(value, f"`{name}`") for name, value in given.items()}
        if "token" not in texts and "serial" not in texts:
            raise SignerUnavailable("a `pkcs11:` URI names a token: add `token=<label>` or `serial=<number>`")
        if "object" not in texts and key_id is None:
            raise SignerUnavailable("a `pkcs11:` URI names a key: add `object=<label>` or `id=<%-encoded bytes>`")
        settings = _settings(query)
        source = settings.get(_PIN_SOURCE)
        return cls(
            module=_module(settings.get(_MODULE)),
            token=texts.get("token"),
            serial=texts.get("serial"),
            label=texts.get("object"),
            key_id=None if key_id is None else _key_id(key_id),
            pin_source=None if source is None else _pin_source(source),
        )

    @property
    def token_name(self) -> str:
        """The token as its user names it."""
        return f"`{shown(self.token or self.serial or '')}`"

    @property
    def key_name(self) -> str:
        """The key as its user names it."""
        parts = [] if self.label is None else [f"object={shown(self.label)}"]
        if self.key_id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.key_id))
        return f"`{';'.join(parts)}`"


def _settings(query: str) -> dict[str, str]:
    if not query:
        return {}
    found = parameters(query, "&", known=(_MODULE, _PIN_SOURCE, _PIN_VALUE))
    if _PIN_VALUE in found:
        raise SignerUnavailable(f"a PIN does not belong into a URI, where others see it: write {PIN_SOURCE_HINT}")
    return found


def _module(encoded: str | None) -> Path:
    given = os.environ.get(MODULE_VARIABLE, "") if encoded is None else decoded_text(encoded, f"`{_MODULE}`")
    if not given:
        raise SignerUnavailable(
            f"no PKCS#11 library is named: add `?{_MODULE}=<path of the token's .so file>`, or set {MODULE_VARIABLE}"
        )
    module = Path(given)
    if not module.is_absolute():
        raise SignerUnavailable(f"the PKCS#11 library `{shown(given)}` is not named by an absolute path")
    return module


def _key_id(encoded: str) -> bytes:
    key_id = decoded_bytes(encoded, "`id`")
    if len(key_id) > MAX_ID_BYTES:
        raise SignerUnavailable(f"`id` has {len(key_id)} bytes, more than {MAX_ID_BYTES}")
    return key_id


def _pin_source(encoded: str) -> SecretSource:
    kind, colon, rest = encoded.partition(":")
    if colon and kind == "env":
        return SecretSource.env(rest)
    if colon and kind == "file":
        return SecretSource.file(file_path(rest, f"`{_PIN_SOURCE}`"))
    # Not repeated: it may be the PIN.
    raise SignerUnavailable(f"`{_PIN_SOURCE}` says where the PIN is, not what it is: write {PIN_SOURCE_HINT}")
