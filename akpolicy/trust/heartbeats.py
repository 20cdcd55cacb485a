"""The steps that only heartbeats need: age, nonce, order, and what they name.

Rules:

- With a nonce, the heartbeat must answer it: it was signed after the nonce was sent, so it is no replay, whatever came
  before. Without one it carries none, and comes later than the last one (a renewal) or with a higher `seq`.
- `seq` never falls within the root's epoch, nor jumps far ahead. A higher epoch lets it begin anew, so that a stolen
  heartbeat key that ran ahead can be recovered from.
- One `seq` is one index, one root version is one root.
- How an index differs from the last one is as little signed as its text: what comes of it must have the named digest.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from akpolicy.errors import (
    Equivocation,
    HeartbeatNonceMismatch,
    HeartbeatReplay,
    HeartbeatRollback,
    HeartbeatStale,
    IssuedInFuture,
    KeyNotAuthorised,
    LifetimeTooLong,
    OrgMismatch,
    RootChainGap,
    VersionJump,
)
from akpolicy.index import Index, IndexChanges, parse_index
from akpolicy.limits import CLOCK_SKEW_S, MAX_HEARTBEAT_LIFETIME_S, MAX_VERSION_JUMP

if TYPE_CHECKING:
    from akpolicy.heartbeat import Heartbeat
    from akpolicy.root import Role, Root
    from akpolicy.trust.verdicts import HeartbeatMark, TrustedRoot


def require_heartbeat_role(root: Root) -> Role:
    """Return who signs heartbeats; raise `KeyNotAuthorised` if nobody may."""
    if root.roles.heartbeat is None:
        msg = f"root version {root.version} lets nobody sign heartbeats; publish one that names a heartbeat key"
        raise KeyNotAuthorised(msg)
    return root.roles.heartbeat


def check_org(heartbeat: Heartbeat, org: str) -> None:
    """Raise `OrgMismatch` unless the heartbeat is of the org."""
    if heartbeat.org != org:
        msg = f"heartbeat is of the org `{heartbeat.org}`, not of `{org}`"
        raise OrgMismatch(msg)


def check_times(heartbeat: Heartbeat, now: float, latest: float) -> None:
    """Raise the reason why a heartbeat is not of now; `latest` is the latest time that it can be."""
    if heartbeat.expires_at - heartbeat.issued_at > MAX_HEARTBEAT_LIFETIME_S:
        msg = f"heartbeat would live longer than {MAX_HEARTBEAT_LIFETIME_S} seconds"
        raise LifetimeTooLong(msg)
    if heartbeat.issued_at > latest + CLOCK_SKEW_S:
        msg = f"heartbeat was issued at {heartbeat.issued_at}, after now; check this machine's clock"
        raise IssuedInFuture(msg)
    if now >= heartbeat.expires_at:
        msg = f"heartbeat expired at {heartbeat.expires_at}"
        raise HeartbeatStale(msg)


def check_nonce(heartbeat: Heartbeat, nonce: str | None) -> None:
    """Raise `HeartbeatNonceMismatch` unless the heartbeat carries exactly the nonce that is waited for, or none."""
    if heartbeat.nonce != nonce:
        msg = "heartbeat carries a nonce of another connection" if heartbeat.nonce else "heartbeat carries no nonce"
        raise HeartbeatNonceMismatch(msg)


def check_root(heartbeat: Heartbeat, root: TrustedRoot) -> None:
    """Raise the reason why the root that the heartbeat names is not the trusted one."""
    version = root.document.version
    if heartbeat.root.version < version:
        msg = f"heartbeat names root version {heartbeat.root.version}, older than the trusted {version}"
        raise HeartbeatRollback(msg)
    if heartbeat.root.version > version:
        msg = f"heartbeat names root version {heartbeat.root.version}, but {version} is trusted; the next is missing"
        raise RootChainGap(msg)
    if heartbeat.root.digest != root.digest:
        msg = f"heartbeat names another root with version {version}"
        raise Equivocation(msg)


def check_order(heartbeat: Heartbeat, root: Root, mark: HeartbeatMark | None) -> None:
    """Raise the reason why the heartbeat does not follow the last one."""
    if mark is None or mark.epoch != root.epoch:
        return
    if heartbeat.seq < mark.seq:
        msg = f"heartbeat has seq {heartbeat.seq}, older than the accepted {mark.seq}; was the server restored?"
        raise HeartbeatRollback(msg)
    if heartbeat.seq - mark.seq > MAX_VERSION_JUMP:
        msg = f"heartbeat has seq {heartbeat.seq}, more than {MAX_VERSION_JUMP} ahead of {mark.seq}"
        raise VersionJump(msg)
    if heartbeat.seq > mark.seq:
        return
    if heartbeat.index.digest != mark.index_digest:
        msg = f"two different indexes have seq {heartbeat.seq}"
        raise Equivocation(msg)
    if heartbeat.nonce is None and heartbeat.issued_at <= mark.issued_at:
        msg = f"heartbeat with seq {heartbeat.seq} is not later than the last one (issued at {mark.issued_at})"
        raise HeartbeatReplay(msg)


def mark_after(mark: HeartbeatMark, before: HeartbeatMark | None) -> HeartbeatMark:
    """Return the mark that accepting a heartbeat leads to; raise `HeartbeatRollback` if a later one was accepted."""
    if before is None or (mark.epoch, mark.seq) > (before.epoch, before.seq):
        return mark
    if (mark.epoch, mark.seq) < (before.epoch, before.seq):
        msg = f"heartbeat has seq {mark.seq}, and one with seq {before.seq} was accepted meanwhile"
        raise HeartbeatRollback(msg)
    # One with a fresh nonce may come from a server whose clock is a little behind.
    return replace(mark, issued_at=max(before.issued_at, mark.issued_at))


def open_index(heartbeat: Heartbeat, given: bytes | Index | IndexChanges | None, known: Index | None) -> Index:
    """Return the index that the heartbeat names: from its text, or what makes it of `known`, or `known` itself.

    Raises `Equivocation` if none is, and the payload errors of a text that is no index.
    """
    reference = heartbeat.index
    for index in (known, given):
        if isinstance(index, Index) and index.digest == reference.digest:
            return index
    if isinstance(given, IndexChanges) and known is not None and given.base == known.digest:
        made = known.with_changes(given)
        if (made.digest, len(made.text)) == (reference.digest, reference.size):
            return made
    # On the wire an index that is left out and that of an org without any policy look alike.
    text = given if isinstance(given, bytes) else b""
    if len(text) != reference.size or hashlib.sha256(text).hexdigest() != reference.digest:
        msg = f"heartbeat with seq {heartbeat.seq} comes with another index than the one that it names"
        raise Equivocation(msg)
    return parse_index(text)
