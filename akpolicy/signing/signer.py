"""What signs, and how a document is signed.

Rules:

- A signer is used by several threads at once and takes care of that itself.
- It raises `SigningFailed` when the key's holder refuses, `SignerUnavailable` when it cannot be reached.
- Limits come before any signature: what a verifier would refuse is not signed at all.
- A signature is verified before it leaves. A token or a service that signs wrongly, or with another key than it says,
  fails here and not on every host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from akpolicy.envelope import EnvelopeSignature, PayloadType, SignedEnvelope
from akpolicy.errors import SigningFailed
from akpolicy.keys import SIGNATURE_BYTES, PublicKey

if TYPE_CHECKING:
    from collections.abc import Sequence


@runtime_checkable
class Signer(Protocol):
    """Signs with one Ed25519 key. Thread-safe."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what this signer signs; the same one for as long as the signer lives."""

    def sign(self, message: bytes) -> bytes:
        """Return the raw 64-byte signature over `message` (at most 4,096 bytes for online documents).

        Raises:
            SigningFailed: what holds the key refuses to sign this message.
            SignerUnavailable: what holds the key cannot be reached.

        """

    def close(self) -> None:
        """Let go of what holds the key; once is enough, more do no harm. A closed signer does not sign."""


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

    def close(self) -> None:
        """Do nothing: the key goes when nothing refers to the signer."""

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the private key as PKCS#8 PEM, encrypted if there is a passphrase."""
        encryption: serialization.KeySerializationEncryption = (
            serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
        )
        return self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def sign_document(payload_type: PayloadType, payload: bytes, signers: Sequence[Signer]) -> SignedEnvelope:
    """Sign `payload` with every signer.

    Raises:
        EnvelopeTooLarge: a verifier would refuse the document for its size; no signer was asked.
        EnvelopeMalformed: there is no signer.
        SigningFailed: a signer refuses, or what it returned is not its key's signature.
        SignerUnavailable: a signer cannot be reached.

    """
    keys = [signer.public_key for signer in signers]
    blank = bytes(SIGNATURE_BYTES)
    draft = SignedEnvelope(payload_type, payload, tuple(EnvelopeSignature(key.key_id, blank) for key in keys))
    draft.check_limits()
    message = draft.pae()
    signatures = (_signature(signer, key, message) for signer, key in zip(signers, keys, strict=True))
    return replace(draft, signatures=tuple(signatures))


def _signature(signer: Signer, key: PublicKey, message: bytes) -> EnvelopeSignature:
    signature = signer.sign(message)
    if not key.verifies(signature, message):
        raise SigningFailed(
            f"what holds the key {key.key_id} returned a signature that does not verify, and nothing was signed: "
            "check that it holds this key and signs pure Ed25519"
        )
    return EnvelopeSignature(key.key_id, signature)
