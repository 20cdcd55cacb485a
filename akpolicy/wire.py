"""Envelopes as protobuf messages: how they travel and how they lie on disk.

Rules: sizes are checked before a message is parsed; a message that does not parse is `EnvelopeMalformed`. Nothing is
verified here.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from akpolicy.envelope import EnvelopeSignature, SignedEnvelope
from akpolicy.errors import EnvelopeMalformed, EnvelopeTooLarge
from akpolicy.limits import MAX_ROOT_ENVELOPE_BYTES
from akpolicy.v1 import bundle_pb2


def envelope_to_proto(envelope: SignedEnvelope) -> bundle_pb2.Envelope:
    """Return the message form."""
    return bundle_pb2.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=[bundle_pb2.Signature(key_id=s.key_id, signature=s.signature) for s in envelope.signatures],
    )


def envelope_from_proto(message: bundle_pb2.Envelope) -> SignedEnvelope:
    """Return the domain form of a received message."""
    return SignedEnvelope(
        message.payload_type,
        message.payload,
        tuple(EnvelopeSignature(s.key_id, s.signature) for s in message.signatures),
    )


def envelope_to_bytes(envelope: SignedEnvelope) -> bytes:
    """Return the bytes that are kept on disk and in the database."""
    return envelope_to_proto(envelope).SerializeToString()


def envelope_from_bytes(data: bytes) -> SignedEnvelope:
    """Read kept bytes; raise `EnvelopeTooLarge` or `EnvelopeMalformed`."""
    if len(data) > MAX_ROOT_ENVELOPE_BYTES:
        msg = f"envelope has {len(data)} bytes, more than {MAX_ROOT_ENVELOPE_BYTES}"
        raise EnvelopeTooLarge(msg)
    message = bundle_pb2.Envelope()
    try:
        message.ParseFromString(data)
    except DecodeError:
        msg = "not an envelope: the bytes do not parse"
        raise EnvelopeMalformed(msg) from None
    return envelope_from_proto(message)
