"""Ed25519 public keys and trust anchors.

Rules:

- A public key is 32 bytes (RFC 8032). Encodings of low-order points and non-canonical encodings are refused when a key
  is loaded: for some of them anybody can make signatures that verify (all zero bytes are one).
- `key_id` = hex of sha256(domain tag || public key). It is recomputed from the key, never taken from a document.
- An anchor is written `ed25519:<base64 of the 32 bytes>`, base64url or standard, padding optional. `age1...` is an
  encryption recipient and a bare 64-digit hex string is a key *id*: both are refused with what to write instead.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from akpolicy.errors import AnchorFormat, DuplicateAnchor, WeakKey
from akpolicy.strict_json import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
ANCHOR_PREFIX: Final = "ed25519:"
MAX_ANCHORS: Final = 64
MAX_ANCHOR_CHARS: Final = 128

_SHOWN_CHARS = 16
_KEY_ID_DOMAIN = b"akpolicy/key/v1\x00"
_FIELD_PRIME = 2**255 - 19
_SIGN_BIT = 1 << 255
# y coordinates of the eight points of small order (RFC 8032, section 5.1; both signs of x share a y).
_LOW_ORDER_Y = frozenset(
    {
        0,
        1,
        _FIELD_PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)
_HEX_ID = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key that passed the checks of this module."""

    raw: bytes
    _verifier: Ed25519PublicKey = field(repr=False, compare=False, hash=False)

    @classmethod
    def from_bytes(cls, raw: bytes) -> PublicKey:
        """Load a key; raise `AnchorFormat` for another length, `WeakKey` for one that verifies forgeries."""
        if len(raw) != PUBLIC_KEY_BYTES:
            msg = f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, this one has {len(raw)}"
            raise AnchorFormat(msg)
        y = int.from_bytes(raw, "little") & ~_SIGN_BIT
        if y >= _FIELD_PRIME:
            msg = "public key is not canonically encoded; generate one with `akpolicy keys generate`"
            raise WeakKey(msg)
        if y in _LOW_ORDER_Y:
            msg = "public key has low order, anyone can sign for it; generate one with `akpolicy keys generate`"
            raise WeakKey(msg)
        return cls(raw, Ed25519PublicKey.from_public_bytes(raw))

    @property
    def key_id(self) -> str:
        """The key's id: hex SHA-256 of a domain tag and the key."""
        return hashlib.sha256(_KEY_ID_DOMAIN + self.raw).hexdigest()

    @property
    def anchor(self) -> str:
        """The key as an anchor line, `ed25519:<base64url>`."""
        return ANCHOR_PREFIX + base64.urlsafe_b64encode(self.raw).decode("ascii")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is this key's over `message` (RFC 8032, section 5.1.7)."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            self._verifier.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def parse_anchor(text: str) -> PublicKey:
    """Read `ed25519:<base64>`; raise `AnchorFormat` or `WeakKey` saying what to write instead."""
    text = text.strip()
    if len(text) > MAX_ANCHOR_CHARS:
        msg = f"trust anchor is longer than {MAX_ANCHOR_CHARS} characters; write `ed25519:<base64 of the 32-byte key>`"
        raise AnchorFormat(msg)
    if text.startswith("age1"):
        msg = (
            f"`{_abbreviated(text)}` is an age (X25519) encryption recipient; a trust anchor is an Ed25519 key: "
            "write `ed25519:<base64>` as printed by `akpolicy-server init`"
        )
        raise AnchorFormat(msg)
    if _HEX_ID.fullmatch(text):
        msg = (
            f"`{_abbreviated(text)}` looks like a key id; a trust anchor is the key itself: "
            "write `ed25519:<base64>` as printed by `akpolicy keys show`"
        )
        raise AnchorFormat(msg)
    if not text.startswith(ANCHOR_PREFIX):
        msg = f"`{_abbreviated(text)}` is not a trust anchor; write `ed25519:<base64 of the 32-byte public key>`"
        raise AnchorFormat(msg)
    return PublicKey.from_bytes(_decode(text.removeprefix(ANCHOR_PREFIX), text))


def decode_public_key(text: str) -> PublicKey:
    """Read the base64 of a key as root documents carry it (no prefix)."""
    return PublicKey.from_bytes(_decode(text, text))


def _decode(encoded: str, whole: str) -> bytes:
    standard = encoded.replace("-", "+").replace("_", "/")
    try:
        # More padding than is needed is refused like any other letter too many.
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        msg = f"`{_abbreviated(whole)}` has no valid base64; write `ed25519:<base64 of the 32-byte public key>`"
        raise AnchorFormat(msg) from None


def _abbreviated(text: str) -> str:
    """Return enough of `text` to find it again; whole, it could be a private key in the wrong place."""
    return shown(text, _SHOWN_CHARS)


class AnchorEntry(Protocol):
    """An anchor as configured; times are epoch seconds, None for no bound."""

    @property
    def key(self) -> str:
        """The key, `ed25519:<base64>`."""

    @property
    def valid_from(self) -> int | None:
        """First second of validity."""

    @property
    def valid_until(self) -> int | None:
        """First second past validity."""


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A key that a host trusts by configuration, within a validity window (epoch seconds; None for no bound)."""

    key: PublicKey
    valid_from: int | None = None
    valid_until: int | None = None


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """The configured anchors: a first root needs signatures by `threshold` distinct of them."""

    anchors: tuple[TrustAnchor, ...]
    threshold: int = 1

    @classmethod
    def parse(cls, entries: Iterable[AnchorEntry], threshold: int = 1) -> AnchorSet:
        """Read configured anchors; raise `AnchorFormat`, `WeakKey` or `DuplicateAnchor`."""
        anchors: dict[bytes, TrustAnchor] = {}
        for entry in entries:
            key = parse_anchor(entry.key)
            if key.raw in anchors:
                msg = f"trust anchor `{key.anchor}` is configured twice; it counts once towards a threshold: remove one"
                raise DuplicateAnchor(msg)
            if entry.valid_from is not None and entry.valid_until is not None and entry.valid_until <= entry.valid_from:
                msg = f"trust anchor `{key.anchor}` ends before it begins; correct valid_from or valid_until"
                raise AnchorFormat(msg)
            anchors[key.raw] = TrustAnchor(key, entry.valid_from, entry.valid_until)
        if not 1 <= threshold <= len(anchors) <= MAX_ANCHORS:
            msg = (
                f"{len(anchors)} trust anchors with threshold {threshold}; "
                f"need 1 to {MAX_ANCHORS} anchors and a threshold from 1 to their number"
            )
            raise AnchorFormat(msg)
        return cls(tuple(anchors.values()), threshold)

    @property
    def digest(self) -> str:
        """The hex SHA-256 of what is configured, in whatever order: two sets that are one have one digest."""
        lines = sorted(f"{anchor.key.anchor} {anchor.valid_from} {anchor.valid_until}" for anchor in self.anchors)
        return hashlib.sha256("\n".join([str(self.threshold), *lines]).encode()).hexdigest()
