"""Attacks on envelopes (A-01 to A-17)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import EnvelopeSignature, PayloadType, pae
from akpolicy.errors import (
    EnvelopeMalformed,
    EnvelopeTooLarge,
    PayloadTypeMismatch,
    SignatureInvalid,
    UnknownKey,
)
from akpolicy.limits import MAX_PAE_BYTES, MAX_ROOT_PAE_BYTES
from akpolicy.signing import PrivateKeySigner
from akpolicy.strict_json import dump
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
from tests.attacks.stage import ORG, PERMIT, REGISTER, Attack, Stage, bundle_of, root_of
from tests.simulators.org import OrgSimulator, sign
from tests.simulators.tampering import (
    add_group_order,
    flip_bit,
    with_key_id,
    with_more_signatures,
    with_payload,
    with_payload_type,
    with_signature,
)

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope


def stranger(envelope: SignedEnvelope) -> EnvelopeSignature:
    signer = PrivateKeySigner.generate()
    return EnvelopeSignature(signer.public_key.key_id, signer.sign(envelope.pae()))


def padded(envelope: SignedEnvelope, org: OrgSimulator, size: int) -> SignedEnvelope:
    """Return the same manifest with white space behind it, so that exactly `size` bytes are signed."""
    payload = envelope.payload
    while (missing := size - len(pae(PayloadType.BUNDLE, payload))) > 0:
        # The PAE states the length of the payload: the last step is shorter by its new digits.
        payload += b" " * max(1, missing - 4)
    return org.sign_manifest(payload)


TAMPERED = REGISTER.table(
    (
        1,
        "a bundle with a flipped bit is refused",
        SignatureInvalid,
        lambda e, _: with_payload(e, flip_bit(e.payload, 9)),
    ),
    (2, "a bit flip in R is refused", SignatureInvalid, lambda e, _: with_signature(e, lambda s: flip_bit(s, 7))),
    (3, "a bit flip in S is refused", SignatureInvalid, lambda e, _: with_signature(e, lambda s: flip_bit(s, 300))),
    (4, "S plus the group order is refused", SignatureInvalid, lambda e, _: with_signature(e, add_group_order)),
    (5, "a signature of 63 bytes is refused", SignatureInvalid, lambda e, _: with_signature(e, lambda s: s[:63])),
    (6, "a signature of 65 bytes is refused", SignatureInvalid, lambda e, _: with_signature(e, lambda s: s + b"\0")),
    (
        7,
        "an attacker's signature under a trusted id is refused",
        SignatureInvalid,
        lambda e, _: with_signature(e, lambda _s: stranger(e).signature),
    ),
    (
        7,
        "a bad signature under a trusted id beside a good one is refused",
        SignatureInvalid,
        lambda e, _: with_more_signatures(e, replace(e.signatures[0], signature=b"\x01" * 64)),
    ),
    (8, "an unknown key id is refused", UnknownKey, lambda e, _: with_key_id(e, "0" * 64)),
    (8, "a stranger's signature alone is refused", UnknownKey, lambda e, _: replace(e, signatures=(stranger(e),))),
    (9, "another payload type is refused", PayloadTypeMismatch, lambda e, _: with_payload_type(e, "text/plain")),
    (9, "an unprintable type is refused", PayloadTypeMismatch, lambda e, _: with_payload_type(e, "\x1b[2J\n" * 900)),
    (
        10,
        "a heartbeat as a bundle is refused",
        PayloadTypeMismatch,
        lambda e, o: o.heartbeat_envelope(o.root_envelope(), [e])[0],
    ),
    (12, "a huge envelope is refused", EnvelopeTooLarge, lambda e, o: padded(e, o, 3_000_000)),
    (
        12,
        "a stranger's huge signature is refused",
        EnvelopeTooLarge,
        lambda e, _: with_more_signatures(e, EnvelopeSignature("0" * 64, bytes(600_000))),
    ),
    (
        13,
        "17 signatures are refused",
        EnvelopeTooLarge,
        lambda e, _: with_more_signatures(e, *(stranger(e) for _ in range(16))),
    ),
    (14, "4,097 signed bytes are refused", EnvelopeTooLarge, lambda e, o: padded(e, o, MAX_PAE_BYTES + 1)),
    (16, "a truncated envelope without its signatures is refused", EnvelopeMalformed, lambda e, _: cut_short(e)),
    (17, "an envelope without signatures is refused", EnvelopeMalformed, lambda e, _: replace(e, signatures=())),
)


def cut_short(envelope: SignedEnvelope) -> SignedEnvelope:
    """Return what a reader gets of a message that ends where the payload ends."""
    data = envelope_to_bytes(envelope)
    end = data.index(envelope.payload) + len(envelope.payload)
    return envelope_from_bytes(data[:end])


@pytest.mark.parametrize("attack", TAMPERED, ids=str)
def test_a_tampered_bundle_is_refused(stage: Stage, attack: Attack) -> None:
    envelope, blob = stage.org.bundle_envelope(ORG, PERMIT)
    stage.refuses(attack, bundle_of(attack.act(envelope, stage.org), blob))
    # The document itself is good: what was refused is the tampering.
    stage.host.new_session()
    stage.host.hear(*bundle_of(envelope, blob))
    assert stage.host.versions[ORG] == 3


ROOTS = REGISTER.table(
    (
        11,
        "a bundle as a root is refused",
        PayloadTypeMismatch,
        lambda o: o.bundle_envelope(ORG, PERMIT, signed_by=[o.root_signer])[0],
    ),
    (
        15,
        "a huge root is refused",
        EnvelopeTooLarge,
        lambda o: sign(PayloadType.ROOT, dump(o.root_document(version=2)) + b" " * MAX_ROOT_PAE_BYTES, [o.root_signer]),
    ),
)


@pytest.mark.parametrize("attack", ROOTS, ids=str)
def test_what_is_no_root_is_refused_as_one(stage: Stage, attack: Attack) -> None:
    stage.refuses(attack, root_of(attack.act(stage.org)))


def test_exactly_4096_signed_bytes_are_believed(stage: Stage) -> None:
    envelope, blob = stage.org.bundle_envelope(ORG, PERMIT)
    stage.host.hear(*bundle_of(padded(envelope, stage.org, MAX_PAE_BYTES), blob))
    assert stage.host.versions[ORG] == 3
