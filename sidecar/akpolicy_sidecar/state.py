"""`state.json`: what is enforced on this host, and what must never be believed again.

Rules:

- The file is `{"sha256":"<digest>","journal":"<name>","state":<state>}`: a state, and the name of the journal
  (`journal`) that has what changed since. The digest is of the name and the exact bytes of `<state>`: whatever changes
  a byte of it by accident or by hand makes it `CacheCorrupt`. That is no signature: root on the host can write a new
  one, and the server is told what is enforced for that reason. Earlier versions wrote no journal, and no name of one.
- Marks, times and confirmations are numbers of this host's own; documents are named by digest and are judged again
  whenever they are loaded.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from pydantic import Field

from akpolicy.clock import Moment
from akpolicy.errors import CacheCorrupt, TrustError
from akpolicy.fields import Counter, HexDigest, OrgName, ScopeText, Seconds
from akpolicy.limits import MAX_INDEX_SCOPES, MIB
from akpolicy.strict_json import Document, JsonLimits, load
from akpolicy.trust import HeartbeatMark, Mark
from akpolicy.trusted_time import TimeProof
from akpolicy_sidecar.freshness import MAX_NOT_ENFORCED, NOBODY, Confirmation, Confirmations, Freshness, with_members

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEAD: Final = re.compile(rb'\{"sha256":"([0-9a-f]{64})",(?:"journal":"([0-9a-f]{32})",)?"state":')
_TAIL: Final = b"}"
_MILLISECONDS: Final = 1000
# A scope has at most 150 bytes outside strings, and its freshness 50.
LIMITS: Final = JsonLimits(structure_bytes=4 * MIB, object_fields=MAX_INDEX_SCOPES + MAX_NOT_ENFORCED)


class RootState(Document):
    """The trusted root, its digest, and the first root of the chain that leads to it: all between are kept.

    `anchors` is the digest of the anchors that the chain was followed from.
    """

    first: Counter
    version: Counter
    digest: HexDigest
    anchors: HexDigest


class ScopeState(Document):
    """What was accepted last for a scope: the mark, and the files. `blob` is None if the scope is deleted.

    `engine` is the version of Cedar that has parsed the content.
    """

    epoch: Counter
    version: Counter
    digest: HexDigest
    min_version: Counter
    previous_digest: HexDigest | None = None
    envelope: HexDigest
    original: HexDigest | None = None
    blob: HexDigest | None = None
    engine: Annotated[str, Field(max_length=64)] = ""

    @property
    def mark(self) -> Mark:
        """The judge's mark."""
        return Mark(self.epoch, self.version, self.digest, self.min_version, self.previous_digest or "")


class HeartbeatState(Document):
    """The mark of the last heartbeat, and the ids of the keys that signed those that vouch for something."""

    epoch: Counter
    seq: Counter
    issued_at: Seconds
    index_digest: HexDigest
    keys: list[HexDigest]

    @property
    def mark(self) -> HeartbeatMark:
        """The judge's mark."""
        return HeartbeatMark(self.epoch, self.seq, self.issued_at, self.index_digest)


class TimeState(Document):
    """What time it had become, and by which boot clock: epoch and boot milliseconds."""

    signed_ms: Seconds
    elapsed_ms: Seconds
    boot_id: Annotated[str, Field(max_length=64)]
    ahead_ms: Seconds = 0

    @classmethod
    def of(cls, proof: TimeProof) -> TimeState:
        """Return the form for the disk."""
        return cls(
            signed_ms=int(proof.signed_at * _MILLISECONDS),
            # Up: nothing more may seem to have passed than has.
            elapsed_ms=math.ceil(proof.at.elapsed * _MILLISECONDS),
            boot_id=proof.at.boot_id,
            ahead_ms=int(proof.ahead * _MILLISECONDS),
        )

    @property
    def proof(self) -> TimeProof:
        """The proof of an earlier run, or of this one."""
        signed_at = self.signed_ms / _MILLISECONDS
        at = Moment(signed_at, self.elapsed_ms / _MILLISECONDS, self.boot_id)
        return TimeProof(signed_at, at, self.ahead_ms / _MILLISECONDS)


class ConfirmationState(Document):
    """A heartbeat that vouched for something."""

    issued_at: Seconds
    expires_at: Seconds

    @classmethod
    def of(cls, seen: Confirmation) -> ConfirmationState:
        """Return the form for the disk."""
        return cls(issued_at=seen.issued_at, expires_at=seen.expires_at)

    @property
    def confirmation(self) -> Confirmation:
        """The confirmation."""
        return Confirmation(self.issued_at, self.expires_at)


class FreshnessState(Document):
    """For which scopes heartbeats vouched, and for the whole.

    `common` is the confirmation of every scope of the state that `by_scope` has no other for and that is not one of the
    `unconfirmed`; None: only those in `by_scope` have any.
    """

    by_scope: dict[ScopeText, ConfirmationState] = Field(default_factory=dict)
    whole: ConfirmationState | None = None
    common: ConfirmationState | None = None
    unconfirmed: list[ScopeText] = Field(default_factory=list)

    @classmethod
    def of(cls, freshness: Freshness, unconfirmed: Iterable[str] = ()) -> FreshnessState:
        """Return the form for the disk; `unconfirmed` are the scopes of the state that may have no confirmation."""
        seen = freshness.confirmations
        return cls(
            by_scope={scope: ConfirmationState.of(each) for scope, each in seen.others.items()},
            whole=ConfirmationState.of(freshness.whole) if freshness.whole else None,
            common=ConfirmationState.of(seen.common) if seen.common else None,
            unconfirmed=sorted(scope for scope in unconfirmed if scope not in seen) if seen.common else [],
        )

    def freshness(self, scopes: Iterable[str]) -> Freshness:
        """Return the freshness; `scopes` are those of the state."""
        others = {scope: seen.confirmation for scope, seen in self.by_scope.items()}
        common = self.common.confirmation if self.common else None
        without = frozenset(self.unconfirmed)
        members = with_members(NOBODY, others)
        if common is not None:
            members = with_members(members, (scope for scope in scopes if scope not in without))
        return Freshness(Confirmations(members, common, others), self.whole.confirmation if self.whole else None)


class State(Document):
    """Everything that is enforced, with the marks."""

    format: Literal[2]
    org: OrgName
    root: RootState | None = None
    scopes: dict[ScopeText, ScopeState] = Field(default_factory=dict)
    heartbeat: HeartbeatState | None = None
    time: TimeState | None = None
    freshness: FreshnessState = Field(default_factory=FreshnessState)


class Change(Document):
    """What is different after an update, for the journal: the scopes that it concerns, and whatever else is given.

    `unconfirmed` are more of those that `freshness` has, in this change or in one before.
    """

    scopes: dict[ScopeText, ScopeState] = Field(default_factory=dict)
    unconfirmed: list[ScopeText] = Field(default_factory=list)
    heartbeat: HeartbeatState | None = None
    time: TimeState | None = None
    freshness: FreshnessState | None = None


class Checkpoint(NamedTuple):
    """What `state.json` says: a state, the name of the journal behind it (empty: none), and the digest of both."""

    state: State
    journal: str
    digest: str


def encode_state(state: State, journal: str = "") -> bytes:
    """Return the bytes of `state.json`."""
    body, name = state.to_bytes(), journal.encode("ascii")
    named = b'"journal":"%b",' % name if name else b""
    digest = _digest_of(name, body).encode("ascii")
    return b'{"sha256":"%b",%b"state":%b%b' % (digest, named, body, _TAIL)


def decode_state(data: bytes) -> State:
    """Return the state in the bytes of `state.json`, without what its journal has; raise `CacheCorrupt`."""
    return decode_checkpoint(data).state


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Read the bytes of `state.json`; raise `CacheCorrupt`."""
    head = _HEAD.match(data)
    body = data[head.end() : -len(_TAIL)] if head is not None else b""
    if head is None or not data.endswith(_TAIL) or head[1].decode() != _digest_of(head[2] or b"", body):
        msg = "it is not what was written: its digest does not fit"
        raise CacheCorrupt(msg)
    try:
        return Checkpoint(load(body, State, LIMITS), (head[2] or b"").decode(), head[1].decode())
    except TrustError as error:
        raise CacheCorrupt(error.message) from error


def _digest_of(journal: bytes, body: bytes) -> str:
    return hashlib.sha256(journal + body).hexdigest()
