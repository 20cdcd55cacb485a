"""From bytes to a signer: PKCS#8 PEM, with or without a passphrase, and bare seeds.

Rules:

- Only Ed25519. Another kind of key is named as such, not used.
- A passphrase that is configured must be needed: a key that turns out to be in the clear is not what the operator
  meant.
- Messages name the place that the key came from and never show any of it.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.errors import KeyFileError
from akpolicy.keys import ANCHOR_PREFIX
from akpolicy.signing.signer import PrivateKeySigner

SEED_BYTES: Final = 32
PEM_BEGIN: Final = "-----BEGIN"

_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_HEX_SEED: Final = re.compile(r"[0-9a-fA-F]{64}")


def read_pem(pem: bytes, passphrase: bytes | None, place: str) -> PrivateKeySigner:
    """Read a PEM key; raise `KeyFileError` saying what is wrong with it. `place` is where it was, for messages."""
    encrypted = _ENCRYPTED in pem
    if encrypted and passphrase is None:
        raise KeyFileError(
            f"{place} is protected by a passphrase; say where that is: "
            "`file:<path>?passphrase-env=<variable>` or `file:<path>?passphrase-file=<path>`"
        )
    if passphrase is not None and not encrypted:
        raise KeyFileError(f"{place} is not protected by a passphrase, but one is configured; correct one of the two")
    try:
        private = serialization.load_pem_private_key(pem, passphrase)
    except UnsupportedAlgorithm:
        raise KeyFileError(f"{place} is encrypted in a way that is not supported; convert it to PBES2") from None
    except (ValueError, TypeError):
        if encrypted:
            raise KeyFileError(f"the passphrase does not open {place}, or the key is damaged") from None
        raise KeyFileError(
            f"{place} is not a private key in PEM (PKCS#8); make one with `akpolicy keys generate`"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(f"{place} is not an Ed25519 key; make one with `akpolicy keys generate`")
    return PrivateKeySigner.from_private_key(private)


def read_seed(text: str, place: str) -> PrivateKeySigner:
    """Read the base64 (standard or base64url, padding optional) of a 32-byte seed; raise `KeyFileError`."""
    if text.startswith(ANCHOR_PREFIX):
        raise KeyFileError(f"{place} holds a public key (a trust anchor), which cannot sign")
    if _HEX_SEED.fullmatch(text):
        raise KeyFileError(f"{place} holds hex; write the seed in base64, or the key in PEM")
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        seed = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise KeyFileError(f"{place} holds neither a key in PEM nor base64") from None
    if len(seed) != SEED_BYTES:
        raise KeyFileError(f"{place} holds {len(seed)} bytes in base64; the seed of an Ed25519 key has {SEED_BYTES}")
    return PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(seed))
