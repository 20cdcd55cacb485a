"""Attacks on envelopes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import EnvelopeSignature, PayloadType, from_dsse_json, pae
from akpolicy.errors import (
    EnvelopeMalformed,
    EnvelopeTooLarge,
    PayloadTypeMismatch,
    RootUnanchored,
    SignatureInvalid,
    UnknownKey,
)
from akpolicy.limits import MAX_ENVELOPE_BYTES, MAX_PAE_BYTES, MAX_ROOT_ENVELOPE_BYTES, MAX_ROOT_PAE_BYTES
from akpolicy.signing import PrivateKeySigner, sign_document
from akpolicy.strict_json import dump
from akpolicy.wire import envelope_from_bytes, envelope_to_bytes
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
from tests.unit.trust.scene import check_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.envelope import SignedEnvelope
    from akpolicy.errors import AkpolicyError
    from tests.unit.trust.scene import Scene

HEARTBEAT = "application/vnd.akpolicy.heartbeat.v1+json"


def _stranger(envelope: SignedEnvelope) -> EnvelopeSignature:
    stranger = PrivateKeySigner.generate()
    return EnvelopeSignature(stranger.public_key.key_id, stranger.sign(envelope.pae()))


def _padded_to_pae(envelope: SignedEnvelope, org: OrgSimulator, size: int) -> SignedEnvelope:
    payload = envelope.payload
    while (missing := size - len(pae(PayloadType.BUNDLE, payload))) > 0:
        # The PAE states the length of the payload: the last step is shorter by its new digits.
        payload += b" " * max(1, missing - 4)
    return org.sign_manifest(payload)


TAMPERED: list[tuple[str, type[AkpolicyError], Callable[[SignedEnvelope, OrgSimulator], SignedEnvelope]]] = [
    ("payload bit flip", SignatureInvalid, lambda e, _: with_payload(e, flip_bit(e.payload, 100))),
    ("R bit flip", SignatureInvalid, lambda e, _: with_signature(e, lambda s: flip_bit(s, 7))),
    ("S bit flip", SignatureInvalid, lambda e, _: with_signature(e, lambda s: flip_bit(s, 300))),
    ("S plus the group order", SignatureInvalid, lambda e, _: with_signature(e, add_group_order)),
    ("signature of 63 bytes", SignatureInvalid, lambda e, _: with_signature(e, lambda s: s[:63])),
    ("signature of 65 bytes", SignatureInvalid, lambda e, _: with_signature(e, lambda s: s + b"\x00")),
    (
        "attacker's signature under a trusted id",
        SignatureInvalid,
        lambda e, _: with_signature(e, lambda _s: _stranger(e).signature),
    ),
    (
        "bad signature under a trusted id beside a good one",
        SignatureInvalid,
        lambda e, _: with_more_signatures(e, replace(e.signatures[0], signature=b"\x01" * 64)),
    ),
    ("unknown key id", UnknownKey, lambda e, _: with_key_id(e, "0" * 64)),
    ("empty key id", UnknownKey, lambda e, _: with_key_id(e, "")),
    ("only a stranger's signature", UnknownKey, lambda e, _: replace(e, signatures=(_stranger(e),))),
    ("wrong payload type", PayloadTypeMismatch, lambda e, _: with_payload_type(e, "text/plain")),
    ("payload type in capitals", PayloadTypeMismatch, lambda e, _: with_payload_type(e, e.payload_type.upper())),
    ("unprintable payload type", PayloadTypeMismatch, lambda e, _: with_payload_type(e, "\x1b[2J\n" * 900)),
    ("heartbeat as bundle", PayloadTypeMismatch, lambda e, o: sign(HEARTBEAT, e.payload, [o.bundle_signer])),
    ("root as bundle", PayloadTypeMismatch, lambda _, o: o.root_envelope()),
    ("huge payload", EnvelopeTooLarge, lambda e, o: _padded_to_pae(e, o, 3_000_000)),
    (
        "17 signatures",
        EnvelopeTooLarge,
        lambda e, _: with_more_signatures(e, *(_stranger(e) for _ in range(16))),
    ),
    ("PAE of 4,097 bytes", EnvelopeTooLarge, lambda e, o: _padded_to_pae(e, o, MAX_PAE_BYTES + 1)),
    (
        "stranger's signature of 600 KB",
        EnvelopeTooLarge,
        lambda e, _: with_more_signatures(e, EnvelopeSignature("0" * 64, bytes(600_000))),
    ),
    ("key id of 129 characters", EnvelopeTooLarge, lambda e, _: with_key_id(e, "0" * 129)),
    ("no signatures", EnvelopeMalformed, lambda e, _: replace(e, signatures=())),
]


@pytest.mark.parametrize(("error", "tamper"), [c[1:] for c in TAMPERED], ids=[c[0] for c in TAMPERED])
def test_a_tampered_bundle_is_refused(
    scene: Scene, error: type[AkpolicyError], tamper: Callable[[SignedEnvelope, OrgSimulator], SignedEnvelope]
) -> None:
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.refuses(error, tamper(envelope, scene.org), blob)
    # The document itself is good: what was refused is the tampering.
    scene.accept(envelope, blob)


def test_a_pae_of_exactly_4096_bytes_is_believed(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    scene.accept(_padded_to_pae(envelope, scene.org, MAX_PAE_BYTES), blob)


def test_a_bundle_as_root_is_refused(scene: Scene) -> None:
    scene.refuses_root(PayloadTypeMismatch, scene.first)
    # Relabelled and signed anew it is a root by its type, but no anchor signed it.
    scene.refuses_root(RootUnanchored, sign(PayloadType.ROOT, scene.first.payload, [scene.org.bundle_signer]))


def test_a_huge_root_is_refused(scene: Scene) -> None:
    payload = dump(scene.org.root_document()) + b" " * MAX_ROOT_PAE_BYTES
    scene.refuses_root(EnvelopeTooLarge, sign(PayloadType.ROOT, payload, [scene.org.root_signer]))


def test_a_root_may_be_larger_than_other_documents_up_to_its_limit() -> None:
    for kind, limit in ((PayloadType.ROOT, MAX_ROOT_PAE_BYTES), (PayloadType.BUNDLE, MAX_PAE_BYTES)):
        payload = bytes(limit - len(pae(kind, bytes(limit))) + limit)
        assert len(pae(kind, payload)) == limit
        sign(kind, payload, []).check_sizes()
        with pytest.raises(EnvelopeTooLarge):
            sign(kind, payload + b" ", []).check_sizes()


def test_no_truncated_message_is_believed(scene: Scene) -> None:
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    data = envelope_to_bytes(envelope)
    for length in range(len(data)):
        try:
            truncated = envelope_from_bytes(data[:length])
        except EnvelopeMalformed:
            continue
        # It ends where a field ends: then the signature is missing, or is not over this payload.
        with pytest.raises((EnvelopeMalformed, PayloadTypeMismatch, SignatureInvalid, UnknownKey)):
            scene.judged(truncated, blob)
    assert envelope_from_bytes(data) == envelope


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (EnvelopeMalformed, b"\xff\xff\xff"),
        (EnvelopeMalformed, b"\x0a\x02\xff\xfe"),
        (EnvelopeTooLarge, bytes(MAX_ROOT_ENVELOPE_BYTES + 1)),
    ],
    ids=["no message", "payload type not UTF-8", "over the limit"],
)
def test_bytes_that_are_no_envelope_are_refused(error: type[AkpolicyError], data: bytes) -> None:
    with pytest.raises(error):
        envelope_from_bytes(data)


def test_what_is_believed_fits_on_disk_again(scene: Scene) -> None:
    # A man in the middle may add signatures of unknown keys; they must not make the kept file unreadable.
    envelope, blob = scene.org.bundle_envelope(scene.org.scope)
    padding = [EnvelopeSignature("\u00e9" * 128, os.urandom(128)) for _ in range(15)]
    padded = with_more_signatures(_padded_to_pae(envelope, scene.org, MAX_PAE_BYTES), *padding)
    scene.accept(padded, blob)
    data = envelope_to_bytes(padded)
    assert len(data) < MAX_ENVELOPE_BYTES
    assert envelope_from_bytes(data) == padded


def test_the_dsse_json_form_keeps_every_byte(scene: Scene) -> None:
    assert from_dsse_json(scene.first.to_dsse_json()) == scene.first


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "not base64!"},
        {"payload": "YW!Jj"},
        {"payload": 7},
        {"payloadType": "t\ud800"},
        {"payloadType": None},
        {"signatures": {}},
        {"signatures": [{"keyid": "a"}]},
        {"signatures": [{"keyid": "\ud800", "sig": ""}]},
        {"signatures": [{"keyid": "a", "sig": "?"}]},
        {"signatures": ["a"]},
    ],
    ids=repr,
)
def test_a_malformed_dsse_json_form_is_refused(scene: Scene, change: dict[str, object]) -> None:
    with pytest.raises(EnvelopeMalformed) as caught:
        from_dsse_json({**scene.first.to_dsse_json(), **change})
    check_message(caught.value)


def test_the_pae_is_that_of_the_dsse_specification() -> None:
    # The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    envelope = sign("http://example.com/HelloWorld", b"hello world", [])
    assert envelope.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert envelope.digest() == hashlib.sha256(b"hello world").digest()


def test_an_honest_signer_makes_nothing_that_a_verifier_refuses(scene: Scene) -> None:
    with pytest.raises(EnvelopeTooLarge):
        sign_document(PayloadType.BUNDLE, b"{}" + b" " * MAX_PAE_BYTES, [scene.org.bundle_signer])
    with pytest.raises(EnvelopeMalformed):
        sign_document(PayloadType.BUNDLE, b"{}", [])
