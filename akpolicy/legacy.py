"""agentkernel's own flat bundle: what its hosts poll from `GET /v1/policies`, from before there were sidecars.

Rules:

- Signed are the version (8 bytes, little-endian), the expiry as RFC 3339 with `+00:00` in whole seconds, and the policy
  text, one behind the other. The layout is agentkernel's, and it is weak: nothing delimits the parts. Whoever has a
  bundle with an expiry can pass it on with none, and the expiry at the beginning of the text: the signed bytes are the
  same. Such a text does not parse as policies; that alone refuses it. So an expiry is always set, by a key that
  signs nothing else.
- No such signature counts for anything of ours: DSSE signs bytes that begin with `DSSEv1 `, which as a version is
  beyond `MAX_JSON_INT`, the largest that is signed here.

No network and no clock here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from akpolicy.errors import SigningFailed
from akpolicy.limits import MAX_JSON_INT

if TYPE_CHECKING:
    from akpolicy.signing import Signer

VERSION_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class LegacyBundle:
    """A signed flat bundle. `expires_at` is the text that was signed."""

    policies: str
    version: int
    expires_at: str
    signature: bytes
    signer_key_id: str

    def to_json(self) -> dict[str, object]:
        """Return the fields as agentkernel reads them."""
        return {
            "policies": self.policies,
            "version": self.version,
            "expires_at": self.expires_at,
            "signature": base64.b64encode(self.signature).decode("ascii"),
            "signer_key_id": self.signer_key_id,
        }


def expiry_text(seconds: int) -> str:
    """Return a time (epoch seconds) as agentkernel writes it: `2030-01-01T00:00:00+00:00`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def signed_bytes(version: int, expires_at: str, policies: str) -> bytes:
    """Return what is signed; `ValueError` for a version that could be something of ours."""
    if not 0 < version <= MAX_JSON_INT:
        msg = f"version {version} is not from 1 to {MAX_JSON_INT}"
        raise ValueError(msg)
    return version.to_bytes(VERSION_BYTES, "little") + expires_at.encode("ascii") + policies.encode("utf-8")


def sign_legacy(signer: Signer, policies: str, version: int, expires_at: int) -> LegacyBundle:
    """Sign a flat bundle that ends at `expires_at` (epoch seconds); raise a `SignerError`."""
    until = expiry_text(expires_at)
    message, key = signed_bytes(version, until, policies), signer.public_key
    signature = signer.sign(message)
    if not key.verifies(signature, message):
        msg = f"what holds the key {key.key_id} returned a signature that does not verify, and nothing was signed"
        raise SigningFailed(msg)
    return LegacyBundle(policies, version, until, signature, key.key_id)
