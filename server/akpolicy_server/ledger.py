"""The one way to publish: a draft is signed, judged, stored, counted and announced, whole or not at all.

Rules:

- Everything happens in one write transaction: `change` begins it, and ends it by counting a generation for each org
  that is touched. After the commit, and only then, those orgs are announced. A dry run does all of it and undoes it.
- A caller's key must be in force when the transaction begins: what came before may have taken its time.
- Versions of a scope rise by one within an epoch. A draft becomes one document for each epoch in use (`audience`), all
  with the same content; the highest epoch's comes last and is the one that is answered with.
- A document that hosts of its org would refuse is not published.
- No org can keep the others from a new `global`: one whose root does not let this server sign for it long enough, or
  with keys that find no room beside everybody's, is passed over, loudly. What its hosts have stays with them. If nobody
  is left, it is refused. One that lets the platform only forbid is heard when somebody publishes, and passed over when
  the server signs anew by itself.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from akpolicy.errors import EpochMismatch, ExpiryExceedsKey, RootExpired, SignerError, SignersMissing, TrustError
from akpolicy.limits import MAX_SIGNATURES
from akpolicy.scope import GLOBAL
from akpolicy.signing import sign_document
from akpolicy_server.api_keys import require_in_force
from akpolicy_server.audience import Group, groups_of
from akpolicy_server.drafts import place_in
from akpolicy_server.first_root import DAY_S, FIRST_EPOCH
from akpolicy_server.judging import judge_as_host, refuse_ungranted_content
from akpolicy_server.room import require_room
from akpolicy_server.signatory import Quorum
from akpolicy_server.store.layers import bump_generations, set_layers
from akpolicy_server.store.online_keys import newest_key
from akpolicy_server.store.revisions import RevisionRecord, current_revision, insert_revision
from akpolicy_server.times import MICROSECONDS, now_us

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from sqlalchemy import Connection

    from akpolicy.clock import Clock
    from akpolicy.envelope import SignedEnvelope
    from akpolicy_server.access import Caller
    from akpolicy_server.audience import Member
    from akpolicy_server.drafts import Draft, Place, UnsignedDocument
    from akpolicy_server.signatory import Signatory
    from akpolicy_server.store.engine import Database

# An org whose keys for `global` end sooner is passed over, rather than that it shortens everybody's bundle.
SHORTEST_GLOBAL_LIFETIME_S: Final = DAY_S

log = structlog.get_logger(__name__)


@dataclass
class Change:
    """A write transaction that publishes; `touched` are the orgs for which something changed."""

    connection: Connection
    now_us: int
    touched: set[str] = field(default_factory=set)

    @property
    def now(self) -> int:
        """The time of the change, in epoch seconds."""
        return self.now_us // MICROSECONDS


@dataclass(frozen=True, slots=True)
class _Signed:
    """A document of one epoch, signed for its members."""

    members: tuple[Member, ...]
    place: Place
    document: UnsignedDocument
    envelope: SignedEnvelope


class Ledger:
    """Publishes drafts. Thread-safe; blocks."""

    def __init__(
        self,
        database: Database,
        signatory: Signatory,
        clock: Clock,
        *,
        announce: Callable[[Collection[str]], None],
    ) -> None:
        """`announce` is told the orgs that changed, after the commit, on the publishing thread."""
        self._database = database
        self._signatory = signatory
        self._clock = clock
        self._announce = announce

    @contextmanager
    def change(self, caller: Caller | None, *, dry_run: bool = False) -> Iterator[Change]:
        """Open a transaction that publishes for `caller` (None: the server itself).

        Raises `Unauthenticated` if the caller's key was revoked meanwhile, and `StoreUnavailable`.
        """
        with _rehearsed(dry_run), self._database.write(keep=not dry_run) as connection:
            if caller is not None:
                require_in_force(connection, caller)
            change = Change(connection, now_us(self._clock))
            yield change
            bump_generations(connection, change.touched)
        if change.touched and not dry_run:
            self._announce(change.touched)

    def commit(self, change: Change, draft: Draft, *, epochs: Collection[int] | None = None) -> RevisionRecord:
        """Publish a draft, in all epochs in use or in these; return the last revision.

        Raises a `TrustError`, `SignersMissing` or `SignerError` if nobody's hosts would get it, or if hosts would
        refuse it; `OrgNotFound` or `RootNotFound` for its org.
        """
        refusals: list[Exception] = []
        groups = groups_of(change.connection, draft.scope) or [_nobody(change.connection, draft.scope)]
        signed = [
            document
            for group in groups
            if epochs is None or group.epoch in epochs
            if (document := self._sign(change, draft, group, refusals)) is not None
        ]
        if not signed:
            raise refusals[0] if refusals else _no_such_epoch(draft.scope, groups)
        judged = [(document, _judge(draft, document, change.now)) for document in signed]
        draft.content.store(change.connection)
        for document, members in judged:
            revision = _enter(change, draft, document, members, is_last=document is signed[-1])
        return revision

    def _sign(self, change: Change, draft: Draft, group: Group, refusals: list[Exception]) -> _Signed | None:
        """Sign a draft for a group; None, with the reasons, if this server can sign for none of its orgs."""
        quorums: dict[str, Quorum] = {}
        for member in group.members:
            try:
                quorums[member.org] = self.quorum(draft, member, change.now)
            except (TrustError, SignersMissing, SignerError) as error:
                if draft.scope != GLOBAL:
                    raise
                refusals.append(error)
                log.warning("published without the hosts of an org", org=member.org, reason=str(error))
        if group.members and not quorums:
            return None
        quorums = _within_an_envelope(quorums)
        members = tuple(member for member in group.members if member.org in quorums)
        if not members:
            quorums[""] = self._platform_quorum(change, draft)
        expires_at = _expiry(draft, group, quorums, change.now)
        place = place_in(change.connection, draft.scope, group.epoch, change.now, expires_at)
        document = draft.document(place)
        signers = {signer.public_key.key_id: signer for quorum in quorums.values() for signer in quorum.signers}
        envelope = sign_document(document.payload_type, document.payload, list(signers.values()))
        return _Signed(members, place, document, envelope)

    def quorum(self, draft: Draft, member: Member, now: int) -> Quorum:
        """Return the keys with which this server signs a draft for an org; raise why it cannot."""
        quorum = self._signatory.quorum(member.root, draft.role(member.root), draft.duty, now)
        if draft.scope == GLOBAL and quorum.ends_at < now + SHORTEST_GLOBAL_LIFETIME_S:
            raise ExpiryExceedsKey(f"the keys of `{member.org}` for `{GLOBAL}` end at {quorum.ends_at}")
        return quorum

    def _platform_quorum(self, change: Change, draft: Draft) -> Quorum:
        """Return what signs `global` while there is no org whose root could say so."""
        key_id = newest_key(change.connection, None, draft.duty.role)
        signer = None if key_id is None else self._signatory.find(key_id)
        if signer is None:
            raise SignersMissing(
                f"this server holds no key of the platform for {draft.duty.what}; restore it in the data directory"
            )
        return Quorum((signer,), change.now + draft.lifetime_s)


def _rehearsed(dry_run: bool) -> AbstractContextManager[None]:
    """Mark what this thread logs while the block runs, if it is a dry run."""
    return structlog.contextvars.bound_contextvars(dry_run=True) if dry_run else nullcontext()


def _nobody(connection: Connection, scope: str) -> Group:
    """Return the group to publish for while there is no org."""
    current = current_revision(connection, scope)
    return Group(current.epoch if current else FIRST_EPOCH, ())


def _within_an_envelope(quorums: dict[str, Quorum]) -> dict[str, Quorum]:
    """Return the orgs whose keys sign together: those with the most usual keys first, while there is room for more."""
    key_ids = {org: frozenset(s.public_key.key_id for s in quorum.signers) for org, quorum in quorums.items()}
    usual = Counter(key_ids.values())
    kept: dict[str, Quorum] = {}
    together: frozenset[str] = frozenset()
    for org in sorted(quorums, key=lambda org: (-usual[key_ids[org]], len(key_ids[org]), org)):
        if len(together | key_ids[org]) > MAX_SIGNATURES:
            log.warning("published without the hosts of an org", org=org, reason="an envelope has no room for its keys")
            continue
        together |= key_ids[org]
        kept[org] = quorums[org]
    return kept


def _no_such_epoch(scope: str, groups: Collection[Group]) -> EpochMismatch:
    present = ", ".join(str(group.epoch) for group in groups)
    return EpochMismatch(f"the roots that get `{scope}` are of other epochs by now ({present})")


def _expiry(draft: Draft, group: Group, quorums: dict[str, Quorum], now: int) -> int:
    """Return when the document ends: after its lifetime, with what it rests on, or with its keys."""
    expires_at = now + draft.lifetime_s
    latest = draft.latest_end(group.epoch)
    if latest is not None:
        expires_at = min(expires_at, latest)
    expired = {member.org for member in group.members if now >= member.root.expires_at}
    ends = [quorum.ends_at for org, quorum in quorums.items() if org not in expired]
    if ends and min(ends) < expires_at and not draft.is_lifetime_asked:
        log.info("a document ends with its signing keys", scope=draft.scope, expires_at=min(ends))
        return min(ends)
    return expires_at


def _judge(draft: Draft, signed: _Signed, now: int) -> list[Member]:
    """Return the orgs that a document goes to; raise the `TrustError` with which hosts of any of them would refuse it.

    What the server signs anew by itself goes to those that take it, as long as there are any.
    """
    takers: list[Member] = []
    refusals: list[TrustError] = []
    for member in signed.members:
        try:
            _judge_for(draft, signed, member, now)
        except TrustError as error:
            if draft.scope != GLOBAL or draft.reason.published_by is not None:
                raise
            log.warning("signed anew without the hosts of an org", org=member.org, reason=str(error))
            refusals.append(error)
            continue
        takers.append(member)
    if refusals and not takers:
        raise refusals[0]
    return takers


def _judge_for(draft: Draft, signed: _Signed, member: Member, now: int) -> None:
    restores = signed.document.restores
    original = None if restores is None else restores.envelope
    try:
        verified = judge_as_host(member, signed.envelope, now, original=original)
    except RootExpired as error:
        if draft.scope != GLOBAL:
            raise
        # Its hosts deny everything until they get a new root; then they get this too.
        log.warning("published for an org whose root has expired", org=member.org, reason=str(error))
        return
    refuse_ungranted_content(member, verified, draft.content)


def _enter(
    change: Change, draft: Draft, signed: _Signed, members: Collection[Member], *, is_last: bool
) -> RevisionRecord:
    """Store a judged document and give it to its orgs. The last one carries the request's claim."""
    restores, reference = signed.document.restores, draft.content.reference
    record = RevisionRecord(
        scope=draft.scope,
        epoch=signed.place.epoch,
        version=signed.place.version,
        kind=draft.reason.kind,
        digest=signed.envelope.digest(),
        envelope=signed.envelope,
        min_version=signed.document.min_version,
        published_at_us=change.now_us,
        issued_at=signed.place.issued_at,
        expires_at=signed.place.expires_at,
        lifetime_s=draft.lifetime_s if restores is None else restores.lifetime_s,
        published_by=draft.reason.published_by,
        message=draft.reason.message,
        policy_count=reference.policies,
        content_digest=bytes.fromhex(reference.digest),
        content_size=reference.size,
        original=None if restores is None else restores.envelope,
        restores_version=None if restores is None else restores.version,
    )
    stored = insert_revision(change.connection, record, draft.reason.claim if is_last else None)
    return give(change, stored, members)


def give(change: Change, revision: RevisionRecord, members: Collection[Member]) -> RevisionRecord:
    """Make a stored revision what the hosts of these orgs get; return it.

    Raises `TooManyScopes` for a new scope of an org that has no room for it.
    """
    require_room(change.connection, revision.scope)
    orgs = {member.org for member in members}
    set_layers(change.connection, orgs, revision)
    change.touched |= orgs
    return revision
