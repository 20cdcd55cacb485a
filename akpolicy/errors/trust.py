"""Documents and keys that must not be believed."""

from __future__ import annotations

from akpolicy.errors.base import AkpolicyError


class TrustError(AkpolicyError):
    """A document that must not be believed."""


class EnvelopeMalformed(TrustError):
    """Not an envelope."""


class EnvelopeTooLarge(TrustError):
    """An envelope over one of its limits."""


class PayloadTypeMismatch(TrustError):
    """Another kind of document than the one asked for."""


class SignatureInvalid(TrustError):
    """A known key's signature does not verify."""


class UnknownKey(TrustError):
    """No signature is by a known key."""


class ThresholdNotMet(TrustError):
    """Too few distinct keys signed."""


class KeyIdMismatch(TrustError):
    """A key is listed under an id that is not its own."""


class KeyNotAuthorised(TrustError):
    """A known key signed what it may not sign."""


class KeyExpired(TrustError):
    """A signing key is past its validity."""


class KeyNotYetValid(TrustError):
    """A signing key is before its validity."""


class KeyRevoked(TrustError):
    """A signing key is revoked."""


class ExpiryExceedsKey(TrustError):
    """A document outlives its signing key."""


class WeakKey(TrustError):
    """A public key that verifies forgeries (low order or not canonical)."""


class AnchorFormat(TrustError):
    """A trust anchor is not written as one."""


class DuplicateAnchor(TrustError):
    """A trust anchor is configured twice."""


class PayloadNotUtf8(TrustError):
    """A payload is not UTF-8."""


class PayloadMalformed(TrustError):
    """A payload is not a JSON object."""


class DuplicateField(TrustError):
    """A JSON object names a field twice."""


class UnknownField(TrustError):
    """A payload has a field that its specification does not know."""


class MissingField(TrustError):
    """A payload lacks a field."""


class FieldInvalid(TrustError):
    """A payload's field has a value that is not allowed."""


class ScopeMismatch(TrustError):
    """A document is for another scope than the one asked for, or carries what its scope may not."""


class TooManyScopes(TrustError):
    """A document of one scope more than a host enforces."""


class OrgMismatch(TrustError):
    """A document is of another org."""


class RollbackDetected(TrustError):
    """An older version than the one enforced."""


class Equivocation(TrustError):
    """The same version with other content."""


class VersionJump(TrustError):
    """A version too far ahead of the one enforced."""


class EpochMismatch(TrustError):
    """Another epoch than the root's."""


class BundleExpired(TrustError):
    """A bundle past its expiry."""


class IssuedInFuture(TrustError):
    """A document issued after now, beyond the tolerated skew."""


class NotYetValid(TrustError):
    """A bundle before its validity."""


class LifetimeTooLong(TrustError):
    """A document that would live too long."""


class RollbackNotAuthorised(TrustError):
    """A rollback without the right to go back to what it names."""


class HeartbeatStale(TrustError):
    """No heartbeat, or one that is past its expiry, vouches for what is enforced."""


class HeartbeatReplay(TrustError):
    """A heartbeat that was accepted before, or one that is not later than it."""


class HeartbeatRollback(TrustError):
    """A heartbeat that names an older state than one that was accepted before."""


class HeartbeatNonceMismatch(TrustError):
    """A heartbeat that does not answer this connection's nonce."""


class PolicyStale(TrustError):
    """Policy older than the offline mode tolerates."""


class ClockRollback(TrustError):
    """The wall clock is behind a time that has been proven to have passed."""


class ClockJump(TrustError):
    """The wall clock ran ahead of the time that has passed since the last proof."""


class RootMissing(TrustError):
    """A document came before any trusted root."""


class RootExpired(TrustError):
    """The trusted root is past its expiry."""


class RootUnanchored(TrustError):
    """A first root that the configured anchors do not verify."""


class RootChainGap(TrustError):
    """A root that is not the next one."""


class RootChainTooLong(TrustError):
    """More rotations at once than are followed."""


class RootThresholdOld(TrustError):
    """A next root that too few of the trusted root's root keys signed."""


class RootThresholdNew(TrustError):
    """A next root that too few of its own root keys signed."""


class RootRollback(TrustError):
    """An older root than the trusted one."""


class SidecarTooOld(TrustError):
    """The root demands a newer sidecar."""


class ContentDigestMismatch(TrustError):
    """Content that is not what the manifest names."""


class ContentTooLarge(TrustError):
    """Content over the limit or longer than the manifest says."""


class EncodingNotAllowed(TrustError):
    """Content in a media type or encoding that is not allowed."""


class SignerError(AkpolicyError):
    """A private key cannot be used."""


class KeyFileError(SignerError):
    """A private key's file or variable cannot be read or written."""


class SignerUnavailable(SignerError):
    """What holds a private key (a token, a key service) cannot be reached, or has no such key."""


class SigningFailed(SignerError):
    """What holds a private key refuses to sign."""
