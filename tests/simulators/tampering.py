"""What an attacker does to bytes and envelopes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.envelope import EnvelopeSignature, SignedEnvelope

# Order of the base point (RFC 8032, section 5.1).
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def flip_bit(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit turned; `bit` counts from the first byte's lowest."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def add_group_order(signature: bytes) -> bytes:
    """Return the malleated form of an Ed25519 signature: S + L in place of S."""
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


def with_payload(envelope: SignedEnvelope, payload: bytes) -> SignedEnvelope:
    """Return the envelope with another payload under the old signatures."""
    return replace(envelope, payload=payload)


def with_payload_type(envelope: SignedEnvelope, payload_type: str) -> SignedEnvelope:
    """Return the envelope declared as another kind of document."""
    return replace(envelope, payload_type=payload_type)


def with_signature(envelope: SignedEnvelope, change: Callable[[bytes], bytes], index: int = 0) -> SignedEnvelope:
    """Return the envelope with one signature's bytes changed."""
    entries = list(envelope.signatures)
    entries[index] = replace(entries[index], signature=change(entries[index].signature))
    return replace(envelope, signatures=tuple(entries))


def with_key_id(envelope: SignedEnvelope, key_id: str, index: int = 0) -> SignedEnvelope:
    """Return the envelope with one signature attributed to another key."""
    entries = list(envelope.signatures)
    entries[index] = replace(entries[index], key_id=key_id)
    return replace(envelope, signatures=tuple(entries))


def with_more_signatures(envelope: SignedEnvelope, *more: EnvelopeSignature) -> SignedEnvelope:
    """Return the envelope with signatures added behind its own."""
    return replace(envelope, signatures=(*envelope.signatures, *more))
