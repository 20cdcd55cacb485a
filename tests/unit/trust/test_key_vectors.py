"""Ed25519 by its published vectors, and in agreement with another implementation (libsodium, through PyNaCl)."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from akpolicy.errors import WeakKey
from akpolicy.keys import PublicKey
from akpolicy.signing import PrivateKeySigner
from tests.simulators.tampering import add_group_order, flip_bit

VECTORS = json.loads((Path(__file__).parents[2] / "testdata" / "rfc8032.json").read_text(encoding="ascii"))["vectors"]
P = 2**255 - 19
SIGN = 1 << 255
IDENTITY = (1).to_bytes(32, "little")


def vector(entry: dict[str, str | list[str]]) -> tuple[bytes, bytes, bytes, bytes]:
    names = ("secret_key", "public_key", "message", "signature")
    secret, public, message, signature = (bytes.fromhex("".join(entry[name])) for name in names)
    return secret, public, message, signature


@pytest.mark.parametrize("entry", VECTORS, ids=[v["name"] for v in VECTORS])
def test_rfc_8032_vectors_are_signed_and_verified(entry: dict[str, str | list[str]]) -> None:
    secret, public, message, signature = vector(entry)
    signer = PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(secret))
    assert signer.public_key.raw == public
    assert signer.sign(message) == signature
    key = PublicKey.from_bytes(public)
    assert key.verifies(signature, message)
    assert not key.verifies(signature, message + b"\x00")
    assert not key.verifies(add_group_order(signature), message)
    assert not any(key.verifies(flip_bit(signature, bit), message) for bit in range(0, 512, 7))


# Every encoding of a point of small order that some decoder accepts: the eight points, and their non-canonical forms
# (y + p where it fits into 255 bits; the sign bit set where x is 0).
LOW_ORDER = {
    "y=0": "0000000000000000000000000000000000000000000000000000000000000000",
    "y=0 sign": "0000000000000000000000000000000000000000000000000000000000000080",
    "y=1": "0100000000000000000000000000000000000000000000000000000000000000",
    "y=1 sign": "0100000000000000000000000000000000000000000000000000000000000080",
    "order 8 a": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8 a sign": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "order 8 b": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "order 8 b sign": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "y=p-1": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "y=p-1 sign": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "y=p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "y=p sign": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "y=p+1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "y=p+1 sign": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}


@pytest.mark.parametrize("encoding", LOW_ORDER.values(), ids=LOW_ORDER.keys())
def test_every_encoding_of_a_low_order_point_is_refused(encoding: str) -> None:
    raw = bytes.fromhex(encoding)
    assert not crypto_core_ed25519_is_valid_point(raw)
    with pytest.raises(WeakKey):
        PublicKey.from_bytes(raw)


@pytest.mark.parametrize("sign", [0, SIGN], ids=["sign 0", "sign 1"])
@pytest.mark.parametrize("y", range(P, 2**255))
def test_every_non_canonical_encoding_is_refused(y: int, sign: int) -> None:
    with pytest.raises(WeakKey, match="canonical"):
        PublicKey.from_bytes((y | sign).to_bytes(32, "little"))


def test_the_table_holds_the_y_of_all_eight_points_of_small_order() -> None:
    # Multiplying any point by the group order leaves its small-order part: a random search finds all of them.
    found = {y for y, x in _small_order_points()}
    assert len(_small_order_points()) == 8
    assert {int.from_bytes(bytes.fromhex(e), "little") & ~SIGN for e in LOW_ORDER.values()} - {P, P + 1} == found


def _small_order_points() -> set[tuple[int, int]]:
    order = 2**252 + 27742317777372353535851937790883648493
    draw = random.Random(8032)
    points = {(0, 1)}
    while len(points) < 8:
        point = _decode(draw.randrange(P))
        if point is not None:
            points.add(_times(order, point))
    return {(y, x) for x, y in points}


D = -121665 * pow(121666, P - 2, P) % P
Point = tuple[int, int]


def _decode(y: int) -> Point | None:
    """Return a point with this y (RFC 8032, section 5.1.3), if there is one."""
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def _add(a: Point, b: Point) -> Point:
    cross = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + cross, P - 2, P)
    y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - cross, P - 2, P)
    return x % P, y % P


def _times(factor: int, point: Point) -> Point:
    result = (0, 1)
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    return result


def test_the_library_alone_would_accept_a_forgery_by_the_identity_key() -> None:
    # Why keys are checked when they are loaded: R = identity, S = 0 verifies for any message.
    forged = IDENTITY + bytes(32)
    Ed25519PublicKey.from_public_bytes(IDENTITY).verify(forged, b"anything")
    with pytest.raises(WeakKey):
        PublicKey.from_bytes(IDENTITY)


@pytest.mark.parametrize("seed", range(200))
def test_signatures_agree_with_libsodium(seed: int) -> None:
    draw = random.Random(seed)
    secret, message = draw.randbytes(32), draw.randbytes(draw.randrange(200))
    ours = PrivateKeySigner.from_private_key(Ed25519PrivateKey.from_private_bytes(secret))
    theirs = SigningKey(secret)
    assert crypto_core_ed25519_is_valid_point(ours.public_key.raw)
    assert ours.public_key.raw == bytes(theirs.verify_key)
    assert ours.sign(message) == theirs.sign(message).signature
    damaged = flip_bit(ours.sign(message), draw.randrange(512))
    assert not ours.public_key.verifies(damaged, message)
    assert not sodium_verifies(bytes(theirs.verify_key), damaged, message)


def sodium_verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        return False
    return True
