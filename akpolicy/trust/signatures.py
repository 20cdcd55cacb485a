"""Who signed an envelope, and whether that is enough for a role: steps of every judgement.

Rules:

- A signature counts if the trusted root lists its key and it verifies over the received bytes. A listed key's bad
  signature spoils the envelope; an unlisted key's is ignored.
- A threshold counts distinct keys. A revoked key's signature is refused even beside enough good ones.
- A document must not outlive the keys that its threshold rests on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import (
    ExpiryExceedsKey,
    KeyExpired,
    KeyNotAuthorised,
    KeyNotYetValid,
    KeyRevoked,
    PayloadTypeMismatch,
    SignatureInvalid,
    ThresholdNotMet,
    UnknownKey,
)
from akpolicy.limits import CLOCK_SKEW_S
from akpolicy.strict_json import shown

if TYPE_CHECKING:
    from akpolicy.envelope import PayloadType, SignedEnvelope
    from akpolicy.keys import PublicKey
    from akpolicy.root import Role, Root


def check_kind(envelope: SignedEnvelope, expected: PayloadType) -> None:
    """Refuse another kind of document, or one over its limits, before any cryptography."""
    # The kind first: it decides which size limit applies.
    if envelope.payload_type != expected:
        msg = f"document is `{shown(envelope.payload_type)}`, expected `{expected}`"
        raise PayloadTypeMismatch(msg)
    envelope.check_limits()


def verified_signers(envelope: SignedEnvelope, keys: dict[str, PublicKey]) -> list[str]:
    """Return the ids of the distinct known keys that signed; a known key's bad signature spoils the whole envelope.

    `keys` are by their own ids, so two ids are two keys.
    """
    message = envelope.pae()
    signers: list[str] = []
    for entry in envelope.signatures:
        key = keys.get(entry.key_id)
        if key is None:
            continue
        if not key.verifies(entry.signature, message):
            msg = f"signature by key {entry.key_id} does not verify"
            raise SignatureInvalid(msg)
        if entry.key_id not in signers:
            signers.append(entry.key_id)
    if not signers:
        msg = "no signature is by a key that the root lists"
        raise UnknownKey(msg)
    return signers


def role_signers(envelope: SignedEnvelope, role: Role, keys: dict[str, PublicKey]) -> list[str]:
    """Return the ids of the distinct keys of a role that signed, perhaps none; raise `SignatureInvalid` as above."""
    try:
        signers = verified_signers(envelope, keys)
    except UnknownKey:
        return []
    return [signer for signer in signers if signer in role.keys]


def check_role(role: Role, signers: list[str], what: str) -> None:
    """Raise `KeyNotAuthorised` or `ThresholdNotMet` unless enough of the role's keys signed."""
    count = sum(signer in role.keys for signer in signers)
    if count == 0:
        msg = f"no signing key may sign for {what}"
        raise KeyNotAuthorised(msg)
    if count < role.threshold:
        msg = f"{count} of {role.threshold} needed keys signed for {what}"
        raise ThresholdNotMet(msg)


def usable_signers(role: Role, signers: list[str], root: Root, now: float, *, held: bool) -> list[str]:
    """Return the signers whose keys are valid now; raise the reason if that leaves too few of them."""
    for signer in signers:
        # Even beside enough good signatures, a revoked key's is an alarm.
        if signer in root.revoked:
            msg = f"signing key {signer} is revoked"
            raise KeyRevoked(msg)
    if held:
        return signers
    usable = []
    problem: KeyExpired | KeyNotYetValid | None = None
    for signer in signers:
        window = root.keys[signer]
        if now >= window.valid_until:
            problem = KeyExpired(f"signing key {signer} expired at {window.valid_until}")
        elif now < window.valid_from - CLOCK_SKEW_S:
            problem = KeyNotYetValid(f"signing key {signer} is valid only from {window.valid_from}")
        else:
            usable.append(signer)
    if problem is not None and sum(s in role.keys for s in usable) < role.threshold:
        raise problem
    return usable


def check_key_lifetimes(scope: str, expires_at: int, role: Role, signers: list[str], root: Root) -> None:
    """Raise `ExpiryExceedsKey` unless enough of the role's keys live as long as the document of the scope.

    `signers` are the usable ones: a key that does not count towards the threshold must not vouch for the lifetime.
    """
    lasting = [s for s in signers if s in role.keys and expires_at <= root.keys[s].valid_until]
    if len(lasting) < role.threshold:
        msg = f"bundle of `{scope}` expires at {expires_at}, after its signing keys"
        raise ExpiryExceedsKey(msg)
