"""`sign_document`: nothing leaves it that a verifier would refuse, whatever a signer returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from akpolicy.envelope import PayloadType, pae
from akpolicy.errors import EnvelopeMalformed, EnvelopeTooLarge, SignerUnavailable, SigningFailed
from akpolicy.limits import MAX_PAE_BYTES, MAX_SIGNATURES
from akpolicy.signing import PrivateKeySigner, Signer, sign_document
from tests.simulators.tampering import add_group_order, flip_bit
from tests.unit.trust.scene import check_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from akpolicy.keys import PublicKey

PAYLOAD = b'{"a": "document"}'


class OddSigner:
    """A signer whose holder changes what it signs or what it returns."""

    def __init__(
        self,
        message: Callable[[bytes], bytes] = lambda message: message,
        signature: Callable[[bytes], bytes] = lambda signature: signature,
    ) -> None:
        self.inner = PrivateKeySigner.generate()
        self.asked = 0
        self._message = message
        self._signature = signature

    @property
    def public_key(self) -> PublicKey:
        return self.inner.public_key

    def sign(self, message: bytes) -> bytes:
        self.asked += 1
        return self._signature(self.inner.sign(self._message(message)))

    def close(self) -> None:
        """Nothing to let go of."""


def test_every_signer_signs_the_same_bytes() -> None:
    signers: list[Signer] = [OddSigner(), PrivateKeySigner.generate()]
    envelope = sign_document(PayloadType.BUNDLE, PAYLOAD, signers)
    assert envelope.payload == PAYLOAD
    assert [s.key_id for s in envelope.signatures] == [s.public_key.key_id for s in signers]
    message = pae(PayloadType.BUNDLE, PAYLOAD)
    assert all(
        signer.public_key.verifies(entry.signature, message)
        for signer, entry in zip(signers, envelope.signatures, strict=True)
    )


@pytest.mark.parametrize(
    "odd",
    [
        OddSigner(message=lambda message: message + b" "),
        OddSigner(signature=lambda signature: flip_bit(signature, 100)),
        OddSigner(signature=add_group_order),
        OddSigner(signature=lambda signature: signature[:-1]),
        OddSigner(signature=lambda signature: signature + b"\x00"),
        OddSigner(signature=lambda _: b""),
        OddSigner(signature=lambda _: bytes(64)),
        OddSigner(signature=lambda _: PrivateKeySigner.generate().sign(pae(PayloadType.BUNDLE, PAYLOAD))),
    ],
    ids=["other bytes", "flipped bit", "malleated", "short", "long", "empty", "zeros", "other key"],
)
def test_a_signature_that_does_not_verify_never_leaves(odd: Signer) -> None:
    with pytest.raises(SigningFailed, match=f"key {odd.public_key.key_id} returned a signature") as caught:
        sign_document(PayloadType.BUNDLE, PAYLOAD, [PrivateKeySigner.generate(), odd])
    check_message(caught.value)


def test_a_document_that_a_verifier_would_refuse_is_not_shown_to_a_signer() -> None:
    signer = OddSigner()
    room = MAX_PAE_BYTES - len(pae(PayloadType.BUNDLE, bytes(1000))) + 1000
    sign_document(PayloadType.BUNDLE, bytes(room), [signer])
    assert signer.asked == 1
    with pytest.raises(EnvelopeTooLarge):
        sign_document(PayloadType.BUNDLE, bytes(room + 1), [signer])
    with pytest.raises(EnvelopeTooLarge):
        sign_document(PayloadType.BUNDLE, PAYLOAD, [signer] * (MAX_SIGNATURES + 1))
    assert signer.asked == 1


def test_a_document_without_signers_is_refused() -> None:
    with pytest.raises(EnvelopeMalformed):
        sign_document(PayloadType.BUNDLE, PAYLOAD, [])


def test_what_a_signer_says_goes_through() -> None:
    def refuse(_: bytes) -> bytes:
        raise SignerUnavailable("the service is away")

    with pytest.raises(SignerUnavailable, match="is away"):
        sign_document(PayloadType.BUNDLE, PAYLOAD, [OddSigner(message=refuse)])
