"""The DSSE v1 envelope: exact bytes, and who signed them.

Rules (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md):

- A signature covers the pre-authentication encoding (PAE): `DSSEv1 <len(type)> <type> <len(body)> <body>`, so the type
  cannot be swapped. Nothing is canonicalised: the received bytes are verified, then parsed.
- Limits come first: number and size of signatures, size of the PAE. A 4,096-byte PAE fits a KMS that signs raw
  messages. Signatures by unknown keys are bounded like all others: what is believed must fit on disk again.
- The JSON form (base64, fields `payload`, `payloadType`, `signatures[].keyid/sig`) is for people and other tools.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from enum import StrEnum

from akpolicy.errors import EnvelopeMalformed, EnvelopeTooLarge
from akpolicy.limits import MAX_PAE_BYTES, MAX_ROOT_PAE_BYTES, MAX_SIGNATURES

MAX_KEY_ID_CHARS = 128
MAX_SIGNATURE_BYTES = 128


class PayloadType(StrEnum):
    """The kinds of signed documents."""

    ROOT = "application/vnd.akpolicy.root.v1+json"
    BUNDLE = "application/vnd.akpolicy.bundle.v1+json"
    ROLLBACK = "application/vnd.akpolicy.rollback.v1+json"
    HEARTBEAT = "application/vnd.akpolicy.heartbeat.v1+json"


@dataclass(frozen=True, slots=True)
class EnvelopeSignature:
    """One signature; `key_id` is only a hint which key to try."""

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedEnvelope:
    """Bytes with signatures. Nothing here is verified; only `akpolicy.trust` turns it into a document."""

    payload_type: str
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...]

    def pae(self) -> bytes:
        """Return the bytes that signatures cover (DSSE v1, PAE)."""
        return pae(self.payload_type, self.payload)

    def digest(self) -> bytes:
        """Return the SHA-256 of the payload: what names this document."""
        return hashlib.sha256(self.payload).digest()

    def check_limits(self) -> None:
        """Raise `EnvelopeTooLarge` or `EnvelopeMalformed` before anything costly is done with this envelope."""
        if not self.signatures:
            msg = "envelope has no signature"
            raise EnvelopeMalformed(msg)
        self.check_sizes()

    def check_sizes(self) -> None:
        """Raise `EnvelopeTooLarge` as `check_limits` does; one that waits for signatures may have none."""
        if len(self.signatures) > MAX_SIGNATURES:
            msg = f"envelope has {len(self.signatures)} signatures, more than {MAX_SIGNATURES}"
            raise EnvelopeTooLarge(msg)
        if any(len(s.key_id) > MAX_KEY_ID_CHARS for s in self.signatures):
            msg = f"envelope has a key id of more than {MAX_KEY_ID_CHARS} characters"
            raise EnvelopeTooLarge(msg)
        if any(len(s.signature) > MAX_SIGNATURE_BYTES for s in self.signatures):
            msg = f"envelope has a signature of more than {MAX_SIGNATURE_BYTES} bytes"
            raise EnvelopeTooLarge(msg)
        limit = MAX_ROOT_PAE_BYTES if self.payload_type == PayloadType.ROOT else MAX_PAE_BYTES
        size = len(self.pae())
        if size > limit:
            msg = f"envelope signs {size} bytes, more than {limit}"
            raise EnvelopeTooLarge(msg)

    def to_dsse_json(self) -> dict[str, object]:
        """Return the DSSE JSON form as plain values."""
        return {
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": s.key_id, "sig": base64.b64encode(s.signature).decode("ascii")} for s in self.signatures
            ],
        }


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the DSSE v1 pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def from_dsse_json(value: object) -> SignedEnvelope:
    """Read the DSSE JSON form (already parsed); raise `EnvelopeMalformed` if it is not one."""
    try:
        match value:
            case {"payload": str(payload), "payloadType": str(kind), "signatures": list(signatures)} if kind.isascii():
                return SignedEnvelope(kind, base64.b64decode(payload, validate=True), _signatures(signatures))
    except (binascii.Error, ValueError):
        pass
    msg = "not a DSSE envelope: needs `payload`, `payloadType` and `signatures` with `keyid` and `sig` in base64"
    raise EnvelopeMalformed(msg)


def _signatures(values: list[object]) -> tuple[EnvelopeSignature, ...]:
    result = []
    for value in values:
        match value:
            case {"keyid": str(key_id), "sig": str(signature)} if key_id.isascii():
                result.append(EnvelopeSignature(key_id, base64.b64decode(signature, validate=True)))
            case _:
                msg = "signature without `keyid` and `sig`"
                raise ValueError(msg)
    return tuple(result)
