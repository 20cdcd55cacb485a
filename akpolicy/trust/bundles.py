"""The steps of judging bundles: who may sign for a scope, order of versions, times, content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from akpolicy.errors import (
    BundleExpired,
    CacheRolledBack,
    EpochMismatch,
    Equivocation,
    IssuedInFuture,
    KeyNotAuthorised,
    LifetimeTooLong,
    NotYetValid,
    RollbackDetected,
    ScopeMismatch,
    TooManyScopes,
    VersionJump,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_BUNDLE_LIFETIME_S, MAX_INDEX_SCOPES, MAX_VERSION_JUMP
from akpolicy.scope import org_of, org_scope
from akpolicy.strict_json import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.bundle import Manifest
    from akpolicy.root import Delegation, Root
    from akpolicy.trust.verdicts import Mark, VerifiedBundle, VerifiedManifest


def refuse_ungranted(bundle: VerifiedBundle | VerifiedManifest, permits: Sequence[str]) -> None:
    """Raise `KeyNotAuthorised` if the bundle permits what its signers may not; `permits` are the ids of its permits.

    Must be called after the Cedar text is parsed and before the bundle is accepted.
    """
    if permits and not bundle.grants:
        msg = (
            f"policy `{permits[0]}` permits, but the root lets the signers of `{bundle.manifest.scope}` only forbid; "
            "have it signed by a key that grants, or remove it"
        )
        raise KeyNotAuthorised(msg)


def check_scope_of(scope: str, org: str, expected: str | None) -> None:
    """Raise `ScopeMismatch` unless the document is for a scope of the org, and for the one that was asked for."""
    if expected is not None and scope != expected:
        msg = f"bundle is for `{scope}`, but `{shown(expected)}` was asked for"
        raise ScopeMismatch(msg)
    if org_of(scope) not in (None, org):
        msg = f"bundle is for `{scope}`, which is not a scope of `{org}`"
        raise ScopeMismatch(msg)


def check_room(scope: str, known: int) -> None:
    """Raise `TooManyScopes` if a host that knows so many scopes cannot take one more."""
    if known >= MAX_INDEX_SCOPES:
        msg = f"bundle is for the new scope `{scope}`, beyond the {MAX_INDEX_SCOPES} that a host enforces"
        raise TooManyScopes(msg)


def require_role(role: Delegation | None, scope: str, what: str) -> Delegation:
    """Return the role that signs `what` (`bundles`, `rollbacks`) of the scope; raise `KeyNotAuthorised`."""
    if role is None:
        msg = f"root lets nobody sign {what} for `{scope}`"
        raise KeyNotAuthorised(msg)
    return role


def check_epoch(epoch: int, root: Root, *, held: bool) -> None:
    """Raise `EpochMismatch` unless the document is of the root's epoch.

    What is held may be of an earlier one: the epoch was raised to recover, and what was enforced stays enforced until
    something of the new epoch comes (unless its keys are revoked).
    """
    if epoch > root.epoch or (epoch < root.epoch and not held):
        msg = f"bundle has epoch {epoch}, the root has {root.epoch}"
        raise EpochMismatch(msg)


def is_ahead(manifest: Manifest, digest: str, mark: Mark | None) -> bool:
    """Return whether the manifest comes after the mark; False if the mark names it, raise if it must not follow."""
    version = manifest.version
    if mark is None or manifest.epoch > mark.epoch:
        _check_jump(version, 0)
        return True
    if manifest.epoch < mark.epoch or version < mark.version:
        msg = (
            f"bundle of `{manifest.scope}` has epoch {manifest.epoch} version {version}, "
            f"older than the accepted {mark.epoch}/{mark.version}"
        )
        raise RollbackDetected(msg)
    if version == mark.version:
        if digest != mark.digest:
            msg = f"two different bundles of `{manifest.scope}` have version {version}"
            raise Equivocation(msg)
        return False
    _check_jump(version, mark.version)
    return True


def check_held(manifest: Manifest, digest: str, mark: Mark | None) -> None:
    """Raise `CacheRolledBack` unless the kept manifest is the one that was accepted last."""
    if mark is None or mark.digest != digest:
        accepted = f"{mark.epoch}/{mark.version}" if mark else "none"
        msg = (
            f"kept bundle of `{manifest.scope}` has epoch {manifest.epoch} version {manifest.version} and is not the "
            f"one that was accepted last ({accepted})"
        )
        raise CacheRolledBack(msg)


def check_times(manifest: Manifest, now: float, *, held: bool) -> None:
    """Raise the reason why the manifest is not valid now. What is held may have expired: it denies, it is kept."""
    if manifest.expires_at - manifest.issued_at > MAX_BUNDLE_LIFETIME_S:
        msg = f"bundle of `{manifest.scope}` would live longer than {MAX_BUNDLE_LIFETIME_S} seconds"
        raise LifetimeTooLong(msg)
    if manifest.issued_at > now + CLOCK_SKEW_S:
        msg = f"bundle of `{manifest.scope}` was issued at {manifest.issued_at}, after now; check this machine's clock"
        raise IssuedInFuture(msg)
    if manifest.not_before > now + CLOCK_SKEW_S:
        msg = f"bundle of `{manifest.scope}` is valid only from {manifest.not_before}"
        raise NotYetValid(msg)
    if not held and now >= manifest.expires_at:
        msg = f"bundle of `{manifest.scope}` expired at {manifest.expires_at}; publish it again"
        raise BundleExpired(msg)


def check_may_bring_schema(scope: str) -> None:
    """Raise `ScopeMismatch` if the layer is one below its org's."""
    org = org_of(scope)
    if org is not None and scope != org_scope(org):
        msg = f"bundle of `{scope}` brings a schema; only `global` and an org's own scope may"
        raise ScopeMismatch(msg)


def _check_jump(version: int, before: int) -> None:
    if version - before > MAX_VERSION_JUMP:
        msg = f"version {version} is more than {MAX_VERSION_JUMP} ahead of {before}"
        raise VersionJump(msg)
