"""Private keys: making, keeping and using them.

Rules:

- A `Signer` signs bytes and says for which public key; documents are signed through `sign_document` alone.
- A signer is named by URI. `file:<path>` is an Ed25519 key in PKCS#8 PEM (RFC 8410), readable by its owner only; a file
  that others can read, a link, or a file of another user is refused, not repaired.
- A key file is created with O_EXCL: an existing key is never overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.durable import read_private_file, write_new_file
from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope, pae
from akpolicy.errors import CacheError, KeyFileError
from akpolicy.keys import PublicKey

MAX_KEY_FILE_BYTES = 16 * 1024


class Signer(Protocol):
    """Signs with one Ed25519 key."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what this signer signs."""

    def sign(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature over `message` (at most 4,096 bytes for online documents)."""


@dataclass(frozen=True, slots=True)
class PrivateKeySigner:
    """A signer that holds its key in memory."""

    public_key: PublicKey
    _private: Ed25519PrivateKey

    @classmethod
    def from_private_key(cls, private: Ed25519PrivateKey) -> PrivateKeySigner:
        """Wrap a `cryptography` key."""
        return cls(PublicKey.from_bytes(private.public_key().public_bytes_raw()), private)

    @classmethod
    def generate(cls) -> PrivateKeySigner:
        """Make a new random key."""
        return cls.from_private_key(Ed25519PrivateKey.generate())

    def sign(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature (RFC 8032, pure Ed25519)."""
        return self._private.sign(message)

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def sign_document(payload_type: PayloadType, payload: bytes, signers: list[Signer]) -> SignedEnvelope:
    """Sign `payload` with every signer; raise `EnvelopeTooLarge` where a verifier would."""
    message = pae(payload_type, payload)
    signatures = tuple(EnvelopeSignature(s.public_key.key_id, s.sign(message)) for s in signers)
    envelope = SignedEnvelope(payload_type, payload, signatures)
    envelope.check_limits()
    return envelope


def create_key_file(path: Path) -> PrivateKeySigner:
    """Make a key and write it to a new file (0600); raise `KeyFileError` if the file exists or cannot be written."""
    signer = PrivateKeySigner.generate()
    try:
        write_new_file(path, signer.to_pem())
    except FileExistsError:
        msg = f"`{path}` exists; a key is never overwritten: choose another path or move the old key away"
        raise KeyFileError(msg) from None
    except OSError as error:
        msg = f"cannot write the key `{path}`: {error.strerror}"
        raise KeyFileError(msg) from error
    return signer


def load_key_file(path: Path) -> PrivateKeySigner:
    """Read a key file; raise `KeyFileError` saying what is wrong with it."""
    try:
        pem = read_private_file(path, max_bytes=MAX_KEY_FILE_BYTES)
    except CacheError as error:
        msg = f"cannot use the key `{path}`: {error.message}"
        raise KeyFileError(msg) from error
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        msg = f"`{path}` is not an unencrypted private key in PEM; make one with `akpolicy keys generate`"
        raise KeyFileError(msg) from None
    if not isinstance(private, Ed25519PrivateKey):
        msg = f"`{path}` is not an Ed25519 key; make one with `akpolicy keys generate`"
        raise KeyFileError(msg)
    return PrivateKeySigner.from_private_key(private)


def open_signer(uri: str) -> Signer:
    """Return the signer that `uri` names; raise `KeyFileError` for an unknown scheme or an unusable key."""
    scheme, separator, rest = uri.partition(":")
    if not separator or scheme != "file":
        msg = f"`{scheme}:` is not a signer this version knows; write `file:<path of a PEM key>`"
        raise KeyFileError(msg)
    return load_key_file(Path(rest))
