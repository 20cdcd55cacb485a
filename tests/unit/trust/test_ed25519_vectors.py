"""The 1,024 Ed25519 vectors of the `cryptography` project, with this library and with libsodium.

A line of `sign.input` is `secret key || public key : public key : message : signature || message :` in hex.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import cryptography
import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from akpolicy.keys import SIGNATURE_BYTES, PublicKey
from akpolicy.signing import PrivateKeySigner
from tests.simulators.tampering import add_group_order, flip_bit

COUNT = 1024


@dataclass(frozen=True)
class Vector:
    line: int
    seed: bytes
    public: bytes
    message: bytes
    signature: bytes


@pytest.fixture(scope="module")
def vectors() -> list[Vector]:
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        found = [vector(number, line) for number, line in enumerate(file, start=1)]
    assert len(found) == COUNT
    return found


def vector(number: int, line: str) -> Vector:
    secret, public, message, signed = (bytes.fromhex(field) for field in line.strip().removesuffix(":").split(":"))
    assert secret[32:] == public
    assert signed[SIGNATURE_BYTES:] == message
    return Vector(number, secret[:32], public, message, signed[:SIGNATURE_BYTES])


def sodium_verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def test_the_vectors_belong_to_the_library_that_is_installed() -> None:
    assert cryptography_vectors.__version__ == cryptography.__version__


def test_every_vector_is_signed_byte_for_byte_and_verified(vectors: list[Vector]) -> None:
    for v in vectors:
        signer = PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(v.seed))
        assert signer.public_key.raw == v.public, v.line
        assert signer.sign(v.message) == v.signature, v.line
        assert PublicKey.from_bytes(v.public).verifies(v.signature, v.message), v.line


def test_libsodium_agrees_on_every_vector(vectors: list[Vector]) -> None:
    for v in vectors:
        theirs = SigningKey(v.seed)
        assert bytes(theirs.verify_key) == v.public, v.line
        assert theirs.sign(v.message).signature == v.signature, v.line
        assert sodium_verifies(v.public, v.signature, v.message), v.line


def test_no_malleated_signature_is_believed(vectors: list[Vector]) -> None:
    for v in vectors:
        malleated = add_group_order(v.signature)
        assert malleated != v.signature
        assert not PublicKey.from_bytes(v.public).verifies(malleated, v.message), v.line
        assert not sodium_verifies(v.public, malleated, v.message), v.line


def test_no_flipped_bit_is_overlooked(vectors: list[Vector]) -> None:
    draw = random.Random(8032)
    for v in vectors:
        key = PublicKey.from_bytes(v.public)
        damaged = flip_bit(v.signature, draw.randrange(8 * SIGNATURE_BYTES))
        assert not key.verifies(damaged, v.message), v.line
        assert not sodium_verifies(v.public, damaged, v.message), v.line
        if v.message:
            other = flip_bit(v.message, draw.randrange(8 * len(v.message)))
            assert not key.verifies(v.signature, other), v.line
            assert not sodium_verifies(v.public, v.signature, other), v.line


def test_no_vector_is_believed_for_another_key(vectors: list[Vector]) -> None:
    for v, other in zip(vectors, vectors[1:] + vectors[:1], strict=True):
        assert not PublicKey.from_bytes(other.public).verifies(v.signature, v.message), v.line
