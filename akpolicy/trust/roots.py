"""The steps of judging roots (TUF specification, section 5.3, with one root document an org).

Rules:

- The first root that a host believes is the oldest one on offer that its anchors signed; it has any version.
- Each next root has exactly the next version. Enough of the trusted root's root keys signed it (`RootThresholdOld`) and
  enough of its own (`RootThresholdNew`).
- It takes nothing back: what was revoked stays revoked, the epoch does not fall.
- Expiry does not matter while a chain is followed, only of the newest root, and when it is used (`check_usable`): a
  host that was away for a year must be able to follow. For the same reason the validity windows of keys do not apply to
  the root role; a root key is taken out of service by a next root.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from akpolicy import __version__
from akpolicy.envelope import PayloadType
from akpolicy.errors import (
    EpochMismatch,
    Equivocation,
    FieldInvalid,
    IssuedInFuture,
    OrgMismatch,
    RootChainGap,
    RootExpired,
    RootMissing,
    RootRollback,
    RootThresholdNew,
    RootThresholdOld,
    RootUnanchored,
    SidecarTooOld,
    VersionJump,
)
from akpolicy.limits import CLOCK_SKEW_S, MAX_VERSION_JUMP
from akpolicy.root import parse_root
from akpolicy.trust.signatures import check_kind, check_role, role_signers, verified_signers
from akpolicy.trust.verdicts import TrustedRoot

if TYPE_CHECKING:
    from akpolicy.envelope import SignedEnvelope
    from akpolicy.keys import AnchorSet
    from akpolicy.root import Root

# A pre-release counts as its release.
_OWN_VERSION: Final = tuple(int(part) for part in re.findall(r"\d+", __version__)[:3])


def judge_first(envelope: SignedEnvelope, org: str, anchors: AnchorSet, now: float) -> TrustedRoot:
    """Judge a root on a host that trusts none yet."""
    # (1) limits and kind, before any cryptography.
    check_kind(envelope, PayloadType.ROOT)
    # (2) the configured anchors signed these bytes; only then parse them.
    _check_anchored(envelope, org, anchors, now)
    document, keys = parse_root(envelope.payload)
    # (3) it is this org's.
    _check_org(document, org)
    if document.version > MAX_VERSION_JUMP:
        msg = f"first root has version {document.version}, more than {MAX_VERSION_JUMP}"
        raise VersionJump(msg)
    # (4) its own root role signed it.
    check_role(document.roles.root, verified_signers(envelope, keys), "the root role")
    # (5) it is of no later time, and this software may follow it.
    _check_followable(document, now)
    return TrustedRoot(document, keys, envelope.digest().hex(), envelope)


def judge_next(envelope: SignedEnvelope, trusted: TrustedRoot, now: float) -> TrustedRoot:
    """Judge a root as the successor of the trusted one."""
    # (1) limits and kind, before any cryptography.
    check_kind(envelope, PayloadType.ROOT)
    # (2) the trusted root's role signed these bytes; only then parse them.
    if len(role_signers(envelope, trusted.document.roles.root, trusted.keys)) < trusted.document.roles.root.threshold:
        msg = (
            f"too few root keys of the trusted root (version {trusted.document.version}) signed the next one; "
            f"{trusted.document.roles.root.threshold} must"
        )
        raise RootThresholdOld(msg)
    document, keys = parse_root(envelope.payload)
    # (3) it is this org's, and the next one.
    _check_org(document, trusted.document.org)
    _check_successor(document, trusted.document)
    # (4) its own root role signed it.
    if len(role_signers(envelope, document.roles.root, keys)) < document.roles.root.threshold:
        msg = f"too few root keys of root version {document.version} itself signed it"
        raise RootThresholdNew(msg)
    # (5) it takes nothing back.
    _check_nothing_undone(document, trusted.document)
    # (6) it is of no later time, and this software may follow it.
    _check_followable(document, now)
    return TrustedRoot(document, keys, envelope.digest().hex(), envelope)


def check_usable(root: TrustedRoot | None, now: float) -> TrustedRoot:
    """Return the trusted root if it may be used now; raise `RootMissing` or `RootExpired`."""
    if root is None:
        msg = "no root is trusted yet, so nothing else can be"
        raise RootMissing(msg)
    if now >= root.document.expires_at:
        msg = f"root version {root.document.version} expired at {root.document.expires_at}; publish the next one"
        raise RootExpired(msg)
    return root


def _check_anchored(envelope: SignedEnvelope, org: str, anchors: AnchorSet, now: float) -> None:
    usable = {
        anchor.key.key_id: anchor.key
        for anchor in anchors.anchors
        if (anchor.valid_from is None or anchor.valid_from <= now)
        and (anchor.valid_until is None or now < anchor.valid_until)
    }
    message = envelope.pae()
    signers = {
        s.key_id for s in envelope.signatures if s.key_id in usable and usable[s.key_id].verifies(s.signature, message)
    }
    if len(signers) < anchors.threshold:
        msg = (
            f"root of `{org}` is signed by {len(signers)} of {anchors.threshold} needed trust anchors; "
            "check that trust_anchors.keys holds the anchor that the server printed for this org"
        )
        raise RootUnanchored(msg)


def _check_org(document: Root, org: str) -> None:
    if document.org != org:
        msg = f"root is of the org `{document.org}`, not of `{org}`"
        raise OrgMismatch(msg)


def _check_successor(document: Root, trusted: Root) -> None:
    if document.version == trusted.version:
        msg = f"another root with version {trusted.version}"
        raise Equivocation(msg)
    if document.version < trusted.version:
        msg = f"root has version {document.version}, older than the trusted {trusted.version}"
        raise RootRollback(msg)
    if document.version != trusted.version + 1:
        msg = f"root has version {document.version}, but {trusted.version} is trusted; the roots between are missing"
        raise RootChainGap(msg)


def _check_nothing_undone(document: Root, trusted: Root) -> None:
    if document.epoch < trusted.epoch:
        msg = f"root version {document.version} lowers the epoch from {trusted.epoch} to {document.epoch}"
        raise EpochMismatch(msg)
    for key_id, since in trusted.revoked.items():
        if document.revoked.get(key_id) != since:
            msg = f"root version {document.version} undoes the revocation of the key {key_id}"
            raise FieldInvalid(msg)


def _check_followable(document: Root, now: float) -> None:
    if document.issued_at > now + CLOCK_SKEW_S:
        msg = f"root was issued at {document.issued_at}, after now; check this machine's clock"
        raise IssuedInFuture(msg)
    if tuple(int(part) for part in document.min_sidecar.split(".")) > _OWN_VERSION:
        msg = f"root demands akpolicy {document.min_sidecar} or newer, this is {__version__}: upgrade"
        raise SidecarTooOld(msg)
